"""`semiseg doctor`: whether this machine has what semiseg needs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from artifacts.errors import ConfigError
from semiseg_cli.console import out, plain_table, size, state_text, write_json
from semiseg_cli.options import RUNS, JsonOption, WorkspaceOption
from stages.contract import default_workers

_MODULES = ("numpy", "scipy", "h5py", "PIL", "skimage", "pydantic", "yaml", "typer", "rich", "tensorboard")
_DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml", "pydensecrf.densecrf": "pydensecrf2"}
_LITTLE_DISK = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at: "ok", "note" (works, but worth knowing) or "missing" (something will fail)."""

    what: str
    state: str
    text: str
    hint: str = ""


def doctor(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Check versions, GPU, CPU cores, memory, disk and compiled parts; exit with 3 when something needed is missing."""
    findings = [_python(), *(_module(name) for name in _MODULES), *_torch(), _compiler(), _dense_crf()]
    findings += [_cores(), *_memory(), _disk(workspace or RUNS), _git()]
    missing = [finding for finding in findings if finding.state == "missing"]
    if as_json:
        write_json({"ok": not missing, "findings": [asdict(finding) for finding in findings]})
    else:
        table = plain_table("", "", "")
        table.show_header = False
        styles = {"ok": "fresh", "note": "stale", "missing": "failed"}
        for finding in findings:
            text = finding.text + (f"\n{finding.hint}" if finding.hint else "")
            table.add_row(finding.what, state_text(styles[finding.state], finding.state), text)
        out().print(table)
    if missing:
        raise ConfigError(
            f"missing: {', '.join(finding.what for finding in missing)}", missing[0].hint or "install what is missing"
        )


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _version(module: str) -> str:
    try:
        return metadata.version(_DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        return "unknown version"


def _module(name: str) -> Finding:
    distribution = _DISTRIBUTIONS.get(name, name)
    try:
        importlib.import_module(name)
    except ImportError as error:
        return Finding(distribution, "missing", str(error), f"pip install {distribution}")
    return Finding(distribution, "ok", _version(name))


def _torch() -> list[Finding]:
    findings = []
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", "missing", str(error), "pip install torch torchvision (a matching pair)")]
    findings.append(Finding("torch", "ok", torch.__version__))
    try:
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # fails when the pair does not match
        findings.append(Finding("torchvision", "ok", f"{torchvision.__version__}, works with this torch"))
    except (ImportError, OSError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = f"install the torchvision that matches torch {torch.__version__}"
        findings.append(Finding("torchvision", "missing", text, hint))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = ", bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
            text = f"{properties.name}, {size(properties.total_memory)}{bf16}, CUDA {torch.version.cuda}"
            findings.append(Finding(f"cuda:{index}", "ok", text))
    else:
        built = "torch was built without CUDA" if torch.version.cuda is None else "torch sees no device"
        findings.append(Finding("cuda", "note", f"none ({built}): everything runs on the CPU"))
    return findings


def _compiler() -> Finding:
    """What `compile: true` of trainings needs: torch translates networks to C++, on a GPU by Triton to its code."""
    compilers = [os.environ.get("CXX") or os.environ.get("CC"), "g++", "clang++", "c++", "gcc", "clang", "cc"]
    found = next((path for name in compilers if name and (path := shutil.which(name))), None)
    missing = [] if found else ["a C++ compiler (g++)"]
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        missing.append("Python.h (python3-dev)")
    if _torch_sees_gpu() and importlib.util.find_spec("triton") is None:
        missing.append("triton")
    if missing:
        return Finding("compile", "note", f"trainings cannot use compile=true without {' and '.join(missing)}")
    return Finding("compile", "ok", f"trainings may use compile=true ({found})")


def _torch_sees_gpu() -> bool:
    try:
        import torch
    except (ImportError, OSError):
        return False
    return torch.cuda.is_available()


def _dense_crf() -> Finding:
    try:
        importlib.import_module("pydensecrf.densecrf")
    except ModuleNotFoundError:
        return Finding("pydensecrf", "note", "not installed: torch computes the dense CRF")
    except ImportError as error:
        return Finding("pydensecrf", "missing", str(error), "pip install pydensecrf2 (needs a C++ compiler)")
    return Finding("pydensecrf", "ok", f"pydensecrf2 {_version('pydensecrf.densecrf')}")


def _cores() -> Finding:
    usable, total = default_workers(), os.cpu_count() or 1
    text = f"{usable} usable" + (f" of {total}" if usable != total else "")
    return Finding("CPU cores", "ok", text)


def _memory() -> list[Finding]:
    """Total and free memory, where the system tells (Linux)."""
    table = Path("/proc/meminfo")
    if not table.is_file():
        return []
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in table.read_text().splitlines() if ":" in line}
    available, total = values.get("MemAvailable", 0), values.get("MemTotal", 0)
    state = "note" if available < 2 * 2**30 else "ok"
    return [Finding("memory", state, f"{size(available)} available of {size(total)}")]


def _disk(place: Path) -> Finding:
    """Of the nearest folder above `place` that is there."""
    place = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    usage = shutil.disk_usage(place)
    state = "note" if usage.free < _LITTLE_DISK else "ok"
    return Finding("disk", state, f"{size(usage.free)} free at {place.resolve()}")


def _git() -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "note", "not found: manifests will not name the source commit")
    version = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Finding("git", "ok", version.removeprefix("git version "))
