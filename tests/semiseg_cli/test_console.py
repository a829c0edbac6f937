"""What people see: text of files and classes is never taken for markup, and never acts on the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from rich.text import Text

from artifacts.errors import SemisegError
from semiseg_cli.console import bullets, json_text, out, plain_table, say, show_error
from semiseg_cli.main import _is_short_of_memory, main
from semiseg_cli.progress import BarProgress, _LeftColumn
from stages.contract import PlainProgress
from tests.one_process import in_one_process

HOSTILE = ["[/red]", "[red]cat", ":cat:", "[link=file:///etc/passwd]x[/link]", "\\[bold]", "$x^$", "{0}", "%s", "<b>"]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_in_tables_titles_lines_and_errors_is_shown_as_it_is(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    table = plain_table(text, "value", title=f"title {text}")
    table.add_row(text, "1")
    out().print(table)
    out().print(text)
    out().print(bullets([text]))
    say(text)
    show_error(text, text)
    captured = capsys.readouterr()
    assert captured.out.count(text) == 5
    assert captured.err.splitlines() == [text, f"error: {text}", f"hint: {text}"]


def test_nothing_is_said_of_the_time_left_before_a_few_units_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    """The first unit includes the loading of networks: "1/120 maps, 4819 s left"."""
    with PlainProgress(every_s=0).track(120, "seeds", "maps and masks", done=40) as tracker:
        for _ in range(5):
            tracker.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "seeds: 41/120 maps and masks"
    assert [" s left" in line for line in lines] == [False] * 4 + [True]
    console = Console(file=StringIO(), force_terminal=True, width=120)
    with BarProgress(console).track(120, "seeds") as bar:
        task = bar.progress.tasks[0]
        assert (bar.advance(4), _LeftColumn().render(task).plain)[1] == ""
        assert (bar.advance(1), _LeftColumn().render(task).plain)[1] != ""


def test_escape_sequences_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[31mred\x1b]0;owned\x07\rb\x9bc\udce9"
    table = plain_table("x")
    table.add_row(text)
    out().print(table)
    show_error(text)
    say(text)
    PlainProgress().note(text)
    BarProgress(out()).note(text)
    with BarProgress(out()).track(2, text) as tracker:
        tracker.advance(1, loss=text)
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert shown.count(r"a\x1b[31mred\x1b]0;owned\x07\x0db\x9bc\xe9") == 5
    assert not re.search("[\x07\x1b\r\x9b\udce9]", shown)


def test_text_that_was_styled_before_is_escaped_too(capsys: pytest.CaptureFixture[str]) -> None:
    out().print(Text.assemble(("state ", "bold"), "\x1b[31mred\x9b2J"))
    assert capsys.readouterr().out == "state \\x1b[31mred\\x9b2J\n"


def test_a_table_stays_aligned_beside_escaped_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = plain_table("class", "share")
    table.add_row("\x1b[31mred", "1")
    table.add_row("plain", "2")
    out().print(table)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.rstrip().endswith(("1", "2"))]
    assert len({len(row.rstrip()) for row in rows}) == 1


def test_json_holds_the_same_text_and_no_character_that_acts_on_a_terminal() -> None:
    value = {"name": "a\x1b\x9b\x7f\udce9 猫"}
    text = json_text(value)
    assert json.loads(text) == value
    assert "猫" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\udce9]", text)


def _prepare(folder: Path, classes: list[str]) -> None:
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)).save(folder / f"photos/[b]{number}.png")
        mask = rng.integers(0, 1 + len(classes), (24, 30), dtype=np.uint8)
        Image.fromarray(mask).save(folder / f"masks/[b]{number}.png")
    (folder / "classes.txt").write_text("\n".join(["background", *classes]) + "\n")


def test_classes_and_images_named_like_markup_are_prepared_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    _prepare(tmp_path, ["[/red]", "[red]cat", ":cat:"])
    source = ["--images", "photos", "--masks", "masks", "--classes", "classes.txt"]
    assert main(["check-data", *source]) == 0
    assert main(["prepare-data", *source]) == 0
    capsys.readouterr()
    assert main(["show", "data"]) == 0
    shown = capsys.readouterr().out
    for number, name in enumerate(["[/red]", "[red]cat", ":cat:"], start=1):
        assert re.search(rf"^ +{number} +{re.escape(name)} +\d", shown, re.MULTILINE)
    assert main(["status"]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_paths_that_are_no_utf8_text_are_shown_with_backslashes_and_never_a_traceback(tmp_path: Path) -> None:
    _prepare(tmp_path, ["cat"])
    data = (b"--images", b"photos", b"--masks", b"masks")
    refused = ((*data, b"--name", b"d\xff"), (*data, b"--config", b"c\xff.yaml"), (b"--images", b"no\xff"))
    (_, _, made), status, (code, shown, _), verified, *wrong = in_one_process(
        tmp_path,
        (b"prepare-data", *data, b"--workspace", b"work\xff"),
        *(
            (*words, b"--workspace", b"work\xff")
            for words in ((b"status",), (b"show", b"data", b"--json"), (b"verify",))
        ),
        *((b"prepare-data", *arguments) for arguments in refused),
    )
    assert "making work\\xff/data" in made
    assert (status.code, code, verified.code) == (0, 0, 0)
    assert json.loads(shown)["argv"][-1] == "work\udcff"
    os.rename(tmp_path / "photos/[b]0.png", os.fsencode(tmp_path) + b"/photos/caf\xe9.png")
    odd = in_one_process(tmp_path, (b"prepare-data", *data), (b"check-data", *data))
    assert (len(wrong), len(odd)) == (3, 2)
    for name, ended in (*((r"(\\x|\\udc)ff", one) for one in wrong), *((r"caf\\", one) for one in odd)):
        assert (ended.code, "Traceback" in ended.err) == (3, False), ended
        assert re.search(name, ended.out + ended.err), ended


def _errors_of_allocations() -> Iterator[Exception]:
    import torch

    for allocate in (lambda: np.empty(10**16), lambda: torch.empty(10**15), lambda: bytearray(10**17)):
        try:
            allocate()
        except Exception as error:
            yield error
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def test_too_little_memory_is_not_called_a_mistake() -> None:
    errors = list(_errors_of_allocations())
    assert len(errors) == 4
    assert all(map(_is_short_of_memory, errors))
    assert not _is_short_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_the_hint_of_an_error_follows_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = SemisegError("first", "then")
    show_error(error.message, error.hint)
    assert capsys.readouterr().err == "error: first\nhint: then\n"
