"""The rules that keep the tree readable (and `--help` fast), enforced on the source."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.util
import subprocess
import sys
import types
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.config import Config
from stages.contract import STAGE_MODULES, load_stage

ROOT = Path(__file__).parents[1]
PACKAGES = ("artifacts", "stages", "semiseg_cli")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "torchvision", "torchaudio", "tensorboard", "skimage", "scipy", "pydensecrf", "sklearn", "timm")
FORBIDDEN_NAMES = {"utils", "util", "misc", "helpers", "helper", "manager", "managers", "common"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def imports(path: Path, module_level: bool) -> list[tuple[str, int]]:
    """Dotted names a file imports when it runs; at module level only, the bodies of functions are left out."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if module_level and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            yield child
            yield from walk(child)

    found = []
    for node in walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def belongs(name: str, modules: tuple[str, ...] | set[str]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def breaks(paths: list[Path], forbidden: tuple[str, ...] | set[str], module_level: bool) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for name, line in imports(path, module_level)
        if belongs(name, forbidden)
    ]


def under(*folders: str) -> list[Path]:
    return [path for path in SOURCES if belongs(name_of(path), folders)]


# --- who may import whom ---

# The rooms from the ground up: a room may import those below it. The modules of stages/ itself are one floor each for
# the contracts, and one for all stages.
FLOORS = (
    "artifacts",
    "stages.config",
    "stages.contract",
    "stages.parallel",
    "stages.data",
    "stages.evaluation",
    "stages.networks",
    "stages.engine",
    "stages.localization",
    "stages.methods",
    "stages.refiners",
    "stages.export",
    "stages.planning",
    "stages.serving",
    "the stages",
    "stages.pipeline",
    "stages.report",
    "semiseg_cli",
)


def floor_of(name: str) -> int:
    rooms = [number for number, room in enumerate(FLOORS) if belongs(name, (room,))]
    return rooms[0] if rooms else FLOORS.index("the stages")


@functools.cache
def own_imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, those inside functions and for types alone too."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name in MODULES} - {name_of(path)}


MODULES = {name_of(path): path for path in SOURCES}


def test_no_room_imports_one_of_a_higher_floor():
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in own_imports(path)
        if name != "stages" and floor_of(other) > floor_of(name)
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle_of_any_length():
    graph = {name: own_imports(path) for name, path in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_stages_never_import_each_other():
    wrong = []
    for path in under("stages"):
        others = {module for module in STAGE_MODULES.values() if module != name_of(path)}
        wrong += breaks([path], others, module_level=False)
    assert not wrong


def test_no_two_files_have_one_name_with_two_meanings():
    """A method and its settings share theirs, and each room has a config."""
    settings = under("stages.methods.settings", "stages.refiners.settings")
    names = Counter(path.name for path in SOURCES if path not in settings)
    assert {name for name, count in names.items() if count > 1} == {"__init__.py", "config.py"}
    for room in ("methods", "refiners"):
        own = {path.name for path in (ROOT / "stages" / room).glob("*.py")}
        assert {path.name for path in (ROOT / "stages" / room / "settings").glob("*.py")} - {"base.py"} <= own


def test_artifacts_load_no_torch():
    assert not breaks(under("artifacts"), HEAVY, module_level=True)
    elsewhere = [path for path in under("artifacts") if path.name != "checkpoint.py"]
    assert not breaks(elsewhere, ("torch", "torchvision"), module_level=False)


def test_the_command_line_does_no_numerics():
    assert not breaks(under("semiseg_cli"), (*HEAVY, "numpy", "h5py", "PIL"), module_level=True)


def test_stage_modules_and_data_readers_load_no_torch_at_module_level():
    light = [path for path in under("stages") if name_of(path) in {*STAGE_MODULES.values(), "stages"}]
    light += under("stages.data", "stages.pipeline", "stages.config", "stages.contract")
    assert not breaks(light, HEAVY, module_level=True)


def existing() -> dict[str, str]:
    return {name: module for name, module in STAGE_MODULES.items() if importlib.util.find_spec(module)}


def test_importing_loads_nothing_heavy():
    """Indirect imports count too, so a fresh process tells: one for all modules, for what one loads stays loaded."""
    modules = sorted([*existing().values(), "semiseg_cli.main", "stages.pipeline.run_stage"])
    code = (
        "import importlib, json, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    if heavy := sorted({set(HEAVY)!r} & sys.modules.keys()):\n"
        "        sys.exit(f'{module} loads {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_usual_networks_are_built_without_torchvision():
    """torchvision loads torch's compiler: as long again as torch."""
    assert not breaks(SOURCES, ("torchvision",), module_level=True)
    code = (
        "import sys, stages.networks.loading, stages.localization.activation_maps, stages.engine.inference\n"
        "from stages.networks.backbones import ResNet\n"
        "ResNet('resnet50', 8)\n"
        "sys.exit(' '.join({'torchvision', 'torch._dynamo', 'scipy.stats'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ""


# --- names and texts ---


def test_every_module_says_what_it_is():
    assert not [name_of(path) for path in SOURCES if not ast.get_docstring(tree_of(path))]


def test_every_module_evaluates_annotations_late():
    modules = [path for path in SOURCES if path.name not in ("__init__.py", "__main__.py")]
    assert not [name_of(p) for p in modules if "__future__.annotations" not in {name for name, _ in imports(p, True)}]


def test_no_module_has_a_name_that_says_nothing():
    wrong = [name_of(path) for path in SOURCES if set(name_of(path).split(".")) & FORBIDDEN_NAMES]
    assert not wrong


def test_no_module_is_longer_than_500_lines_unless_it_says_why():
    """The reason is a sentence of its docstring."""
    long = [path for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > 500]
    assert not [name_of(path) for path in long if "Long because " not in (ast.get_docstring(tree_of(path)) or "")]


def test_the_top_of_stages_holds_stages_only():
    tops = {name_of(path) for path in (ROOT / "stages").glob("*.py")} - {"stages"}
    assert tops <= {*STAGE_MODULES.values(), "stages.config", "stages.contract"}


# --- what is loaded from disk ---


@functools.cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


def test_nothing_is_pickled():
    assert not breaks(SOURCES, ("cPickle", "dill", "joblib", "shelve", "marshal"), module_level=False)
    errors = {"pickle.UnpicklingError", "pickle.PickleError"}  # what reading a foreign weights file may raise
    names = [(path, node) for path in SOURCES for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)]
    assert not [
        f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"
        for path, node in names
        if isinstance(node.value, ast.Name) and node.value.id == "pickle" and ast.unparse(node) not in errors
    ]
    assert not [name_of(p) for p in SOURCES for name, _ in imports(p, False) if name.startswith("pickle.")]
    wrong = [
        f"{name_of(path)}:{node.lineno}: allow_pickle"
        for path in SOURCES
        for _, node in calls(path)
        for keyword in node.keywords
        if keyword.arg == "allow_pickle"
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    assert not wrong


def test_yaml_is_read_by_safe_loaders_only():
    wrong = []
    for path in SOURCES:
        for function, call in calls(path):
            if function in ("yaml.load", "yaml.load_all"):
                loaders = [ast.unparse(k.value) for k in call.keywords if k.arg == "Loader"]
                safe = name_of(path) == "artifacts.yaml_files" and loaders == ["_Loader"]
            else:
                safe = not function.startswith(("yaml.unsafe", "yaml.full"))
            if not safe:
                wrong.append(f"{name_of(path)}:{call.lineno}: {function}")
    assert not wrong


def test_every_torch_load_is_weights_only():
    wrong = [
        f"{name_of(path)}:{call.lineno}"
        for path in SOURCES
        for function, call in calls(path)
        if function == "torch.load"
        and not any(
            k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
            for k in call.keywords
        )
    ]
    assert not wrong


# --- configs ---


def all_configs(config: type[Config], seen: set[type[Config]]) -> set[type[Config]]:
    def inside(annotation: object) -> Iterator[type[Config]]:
        plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
        if plain and issubclass(annotation, Config):
            yield annotation
        for argument in typing.get_args(annotation):
            yield from inside(argument)

    if config not in seen:
        seen.add(config)
        for field in config.model_fields.values():
            for inner in inside(field.annotation):
                all_configs(inner, seen)
    return seen


@pytest.mark.parametrize("name", sorted(existing()))
def test_a_stage_is_what_its_name_says_and_its_settings_are_explained(name):
    stage = load_stage(name)
    assert stage.name == name
    assert stage.summary
    for config in all_configs(stage.config, set()):
        assert config.__doc__, config
        for key, field in config.model_fields.items():
            tag = typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1
            plain = typing.get_args(field.annotation) == ()
            is_part = plain and isinstance(field.annotation, type) and issubclass(field.annotation, Config)
            assert field.description or tag or is_part, f"{config.__name__}.{key} has no description"
            unordered = [
                t
                for t in (field.annotation, *typing.get_args(field.annotation))
                if typing.get_origin(t) in (set, frozenset)
            ]
            assert not unordered, (
                f"{config.__name__}.{key}: the order of a set differs between runs, and so the fingerprint"
            )
