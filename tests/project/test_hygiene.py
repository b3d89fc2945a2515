"""Dependencies point one way, every string that names code leads to code, and importing costs nothing."""

from __future__ import annotations

import ast
import configparser
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lapa
from helpers import PATIENCE, ROOT
from lapa import registry

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PACKAGES = {"lapa": ROOT / "lapa", "lapa_plugins": ROOT / "lapa_plugins", "lapa_envs": ROOT / "envs" / "lapa_envs"}
MODULES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]

FORBIDDEN = {
    "lapa": {"gymnasium", "ale_py", "lapa_plugins", "lapa_envs", "scripts"},
    "lapa_envs": {"lapa_plugins", "scripts"},
}
LAYERS = (
    "version errors progress compiled",
    "device shipped",
    "distributed contracts",
    "registry",
    "sections",
    "presets",
    "config",
    "plugins settings",
    "nn metrics report",
    "data",
    "games systems tracking",
    "engine",
    "inference",
    "evaluation",
    "testing",
    "commands",
    "cli",
)
"""Parts of ``lapa``, from the ground up: each imports from its own row and from those before it."""
GROUND = {
    "nn": {"numpy", "torch", "lapa.nn", "lapa.compiled", "lapa.errors"},
    "metrics": {"numpy", "torch", "lapa.metrics", "skimage", "sklearn"},
}
"""What the parts on the ground may import, beside the standard library."""
PLUGINS_MAY_USE = {"lapa", "lapa_plugins", "numpy", "torch", "vector_quantize_pytorch", *sys.stdlib_module_names}
HEAVY = {
    "matplotlib",
    "sklearn",
    "skimage",
    "scipy",
    "wandb",
    "ale_py",
    "gymnasium",
    "torch",
    "lapa_plugins",
    "lapa_envs",
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def offences(package: str, is_allowed) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(PACKAGES[package].rglob("*.py"))
        for line, name in imports(path)
        if not is_allowed(name.partition(".")[0])
    ]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)


def test_there_is_code_to_look_at() -> None:
    assert len(MODULES) > 30
    found = {name for _, name in imports(PACKAGES["lapa"] / "commands" / "doctor.py")}
    assert {"__future__", "lapa.errors", "torch"} <= found, "imports inside functions count too"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_nothing_is_imported_against_the_stream(package: str) -> None:
    assert offences(package, lambda name: name not in FORBIDDEN[package]) == []


def part_of(path: Path) -> str:
    """The part of ``lapa`` that a file belongs to."""
    return path.relative_to(PACKAGES["lapa"]).parts[0].removesuffix(".py")


def run_time_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, with the part for ``from lapa import part``; without those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "lapa":
            yield from ((node.lineno, f"lapa.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


CORE = [path for path in MODULES if PACKAGES["lapa"] in path.parents and path.name != "__init__.py"]


def test_every_part_has_its_layer() -> None:
    named = [part for row in LAYERS for part in row.split()]
    assert sorted(named) == sorted({part_of(path) for path in CORE} | {"presets"})


def test_parts_import_one_way() -> None:
    layer = {part: height for height, row in enumerate(LAYERS) for part in row.split()}
    against = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in CORE
        for line, name in run_time_imports(path)
        if name.startswith("lapa.") and layer[name.split(".")[1]] > layer[part_of(path)]
    ]
    assert against == []


def test_systems_are_found_by_name_and_imported_by_nobody() -> None:
    against = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in (*CORE, *PACKAGES["lapa_envs"].rglob("*.py"))
        for line, name in imports(path)
        if name.startswith("lapa.systems") and "systems" not in path.relative_to(ROOT).parts
    ]
    assert against == []


@pytest.mark.parametrize("part", GROUND)
def test_the_ground_needs_little(part: str) -> None:
    allowed = GROUND[part]
    foreign = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in CORE
        if part_of(path) == part
        for line, name in run_time_imports(path)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(name == module or name.startswith(f"{module}.") for module in allowed)
    ]
    assert foreign == []


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("evaluation", ("lapa.systems", "lapa.games.breakout")),
        ("inference", ("lapa.systems", "lapa.evaluation", "lapa.games", "lapa.report")),
        ("report", ("lapa.systems", "lapa.evaluation", "lapa.inference", "lapa.games", "lapa.engine")),
        ("games", ("lapa.systems", "lapa.evaluation", "lapa.inference", "lapa.engine")),
    ],
)
def test_the_parts_of_the_evaluation_know_no_system_and_no_game(package: str, forbidden: tuple[str, ...]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((PACKAGES["lapa"] / package).rglob("*.py"))
        for line, name in imports(path)
        if any(name == other or name.startswith(f"{other}.") for other in forbidden)
    ]
    assert found == []


def test_players_and_the_live_view_use_no_evaluation() -> None:
    """Of the evaluation's parts, a player needs the game alone, and the live view readings and pictures."""
    allowed = {
        "policies.py": ("lapa.games.breakout.screen",),
        "live": ("lapa.inference.reading", "lapa.report.pictures"),
    }
    folder = PACKAGES["lapa_envs"]
    for name, modules in allowed.items():
        for path in sorted((folder / name).rglob("*.py")) if (folder / name).is_dir() else [folder / name]:
            used = {found for _, found in imports(path)}
            parts = ("lapa.evaluation", "lapa.games", "lapa.report", "lapa.inference.reading")
            assert {found for found in used if found.startswith(parts)} <= set(modules), path


def test_plugins_need_only_lapa_and_what_it_brings() -> None:
    assert offences("lapa_plugins", PLUGINS_MAY_USE.__contains__) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute(package: str) -> None:
    assert offences(package, bool) == []


@pytest.mark.parametrize("role", ["encoder", "quantizer", "conditioner"])
def test_no_core_file_names_a_plugin(role: str) -> None:
    """Only configurations do; the model and the rest take what the registry gives."""
    names = {line.split("=")[0].strip() for line in SETUP["options.entry_points"][f"lapa.{role}s"].strip().splitlines()}
    strings = {
        (path.name, node.value)
        for path in PACKAGES["lapa"].rglob("*.py")
        if path.name != "config.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words_of_pictures = {(file, "difference") for file in ("drawing.py", "dream.py", "pictures.py")}
    assert {(file, text) for file, text in strings if text in names} - words_of_pictures == set()


def entry_points() -> list[tuple[str, str]]:
    """(group.name, target) of every entry point in setup.cfg."""
    section = SETUP["options.entry_points"]
    lines = [(group, line.partition("=")) for group in section for line in section[group].strip().splitlines()]
    return [(f"{group}.{name.strip()}", target.strip()) for group, (name, _, target) in lines]


@pytest.mark.parametrize(("name", "target"), entry_points(), ids=lambda value: value)
def test_every_entry_point_leads_to_something(name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_every_package_of_the_tree_is_listed_and_every_listed_one_is_there() -> None:
    listed = set(SETUP["options"]["packages"].split())
    places = dict(line.replace(" ", "").split("=") for line in SETUP["options"]["package_dir"].strip().splitlines())
    for name in sorted(listed):
        parent, _, last = name.rpartition(".")
        places.setdefault(name, f"{places[parent]}/{last}" if parent else name)
    folders = {ROOT / places[name] for name in listed}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()
    found = {path.parent for path in MODULES if path.name == "__init__.py"} | {ROOT / "checkpoints" / "pretrained"}
    assert found == folders


def test_the_version_stands_in_one_way() -> None:
    assert lapa.__version__ == SETUP["metadata"]["version"]


@pytest.mark.parametrize("package", ["lapa", "lapa_envs"])
def test_every_lazy_name_leads_to_something(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == set(module._HOMES)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_type_checkers_see_the_same_names_as_users() -> None:
    (branch,) = (
        node for node in ast.parse((ROOT / "lapa" / "__init__.py").read_text()).body if isinstance(node, ast.If)
    )
    seen = {alias.name: node.module for node in branch.body for alias in node.names}
    assert seen == lapa._HOMES


def imported_with(*modules: str) -> set[str]:
    """The heavy packages that a fresh process has after importing the modules, which may print nothing."""
    code = f"import {', '.join(modules)}, sys; sys.exit(' '.join({HEAVY!r} & sys.modules.keys()))"
    done = run_python(code)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("module", ["lapa", "lapa.cli", "lapa_plugins", "lapa_envs"])
def test_importing_is_quiet_and_light(module: str) -> None:
    # lapa_envs registers an id with Gymnasium.
    assert imported_with(module) <= {module} | ({"gymnasium"} if module == "lapa_envs" else set())


def test_the_library_works_without_the_packages_of_the_report_and_the_environments() -> None:
    names = ("data.store", "engine.training", "inference.extraction", "evaluation.evaluate")
    assert imported_with(*(f"lapa.{name}" for name in names)) == {"torch"}


def test_looking_up_names_imports_no_plugin() -> None:
    code = "import sys; from lapa import registry; print(registry.encoders.names(), 'lapa_plugins' in sys.modules)"
    assert run_python(code).stdout == f"{registry.encoders.names()} False\n"
