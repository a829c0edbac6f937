"""The `semiseg` command: finds the commands, turns errors into one clear message and an exit code.

Exit codes: 0 ok, 1 unexpected, 2 usage, 3 bad config or data, 4 busy, 5 stale, 130 interrupted.
Nothing here loads torch; a command loads it only when its work begins.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from artifacts.errors import SemisegError
from semiseg_cli.command_list import COMMANDS, load_command

INTERRUPTED = 130  # exit code


class _Commands(typer.core.TyperGroup):
    """The commands as they are listed; only the one that runs is loaded."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, listed in COMMANDS.items():
            self.add_command(typer.core.TyperCommand(name, help=listed.help, rich_help_panel=listed.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else None, rest


app = typer.Typer(cls=_Commands, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"semiseg {version('semiseg')}")
        except PackageNotFoundError:  # the folder is on the path, and nothing else
            print("semiseg, not installed: its version is unknown (pip install -e .)")
        raise typer.Exit()


@app.callback()
def semiseg(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of unexpected errors (also SEMISEG_DEBUG=1).")
    ] = False,
) -> None:
    """From image-level labels and a few masks to a scored segmentation model, in stages.

    Whole pipelines: semiseg run demo. One stage: semiseg seeds --help. Every setting of a stage: semiseg config seeds.
    """


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    # Read by OpenMP when torch loads. Its threads otherwise spin while they wait for each other: with a pool of
    # processes or other programs on the same cores, a training step took up to fifty times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # characters that the terminal's encoding lacks are shown as escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given or os.environ.get("SEMISEG_DEBUG", "0") not in ("", "0")
    given = [argument for argument in given if argument != "--debug"]
    command = typer.main.get_command(app)
    try:
        return _run_together(command, given)
    except SemisegError as error:
        if debug:
            traceback.print_exc()
        _show_error(error.message, error.hint)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _show_error("interrupted", "finished items are kept: the same command continues")
        return INTERRUPTED
    except BrokenPipeError:  # `semiseg status | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (keeps the interpreter from complaining at exit)
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error found by the parser
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "semiseg"
            if type(error).__name__ == "NoArgsIsHelpError":
                return 2
            _show_error(error.format_message(), f"{path} --help")
            return 2
        if debug:
            traceback.print_exc()
        if _is_short_of_memory(error):
            _show_error(
                f"too little memory: {str(error).partition('. ')[0] or 'an allocation failed'}",
                "use a smaller batch_size or crop_size, or fewer --workers; finished work is kept: the same command "
                "continues",
            )
            return 3
        _show_error(
            f"unexpected {type(error).__name__}: {error}",
            "this is a bug in semiseg, or a broken installation" + ("" if debug else "; --debug shows where"),
        )
        return 1


def _run_together(command: Any, given: list[str]) -> int:
    """Runs the command; under torchrun a stage or a recipe in all processes, any other command in the first alone.

    An error or the death of one of them ends the others. Returns the exit code.
    """

    def run() -> int:
        code = command.main(args=given, prog_name="semiseg", standalone_mode=False)
        return code if isinstance(code, int) else 0

    if os.environ.get("WORLD_SIZE", "1") == "1":
        return run()
    from semiseg_cli.console import is_main_rank

    known = COMMANDS.get(next((word for word in given if not word.startswith("-")), ""))
    if known is None or not known.together:
        return run() if is_main_rank() else 0
    from stages.engine.distributed import meeting

    try:
        with meeting():
            if (code := run()) == INTERRUPTED:
                raise SystemExit(code)  # which no other process survives
            return code
    except SystemExit:
        return INTERRUPTED


def _show_error(message: str, hint: str | None) -> None:
    from semiseg_cli.console import show_error  # loads rich, which a command that succeeds may do without

    show_error(message, hint)


def _is_short_of_memory(error: Exception) -> bool:
    """Whether memory ran out: the error of Python and numpy, torch's for GPUs, or torch's for CPUs, a RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
