"""The wheel holds the three packages, all that they read, and nothing else."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from helpers import PATIENCE, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that pip builds from the files that git knows or would add."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # deleted, but not yet committed
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(tree)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def names(wheel: zipfile.ZipFile) -> set[str]:
    return set(wheel.namelist())


def read_dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_only_the_three_packages_are_installed(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lapa", "lapa_plugins", "lapa_envs"}
    assert len(tops) == 4


def test_every_module_of_the_tree_is_in_it(names: set[str]) -> None:
    places = {"lapa": "lapa", "lapa_plugins": "lapa_plugins", "envs/lapa_envs": "lapa_envs"}
    places["checkpoints/pretrained"] = "lapa_envs/pretrained"
    expected = {
        f"{target}/{path.relative_to(ROOT / source)}"
        for source, target in places.items()
        for path in (ROOT / source).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected


def test_what_the_packages_read_is_in_it(names: set[str]) -> None:
    presets = {f"lapa/presets/{path.name}" for path in (ROOT / "lapa" / "presets").glob("*.yaml")}
    assert len(presets) >= 5
    assert presets <= names
    assert {"lapa/py.typed", "lapa_plugins/py.typed", "lapa_envs/py.typed"} <= names


def test_the_models_that_come_with_it_are_in_it(names: set[str]) -> None:
    folder = ROOT / "checkpoints" / "pretrained"
    files = {path.name for path in folder.iterdir() if path.suffix in (".pt", ".json", ".npz")}
    assert {f"breakout_v0{end}" for end in (".pt", ".json", "_reader.npz")} <= files
    assert {f"lapa_envs/pretrained/{name}" for name in files} <= names


def test_the_entry_points_are_those_of_setup_cfg(wheel: zipfile.ZipFile) -> None:
    built, source = configparser.ConfigParser(), configparser.ConfigParser()
    built.read_string(read_dist_info(wheel, "entry_points.txt"))
    source.read(ROOT / "setup.cfg")
    expected = {
        (group, *(part.strip() for part in line.split("=")))
        for group, lines in source["options.entry_points"].items()
        for line in lines.strip().splitlines()
    }
    assert {(group, name, target) for group in built.sections() for name, target in built[group].items()} == expected
    assert ("console_scripts", "lapa", "lapa.cli:main") in expected


def test_tests_scripts_and_leftovers_stay_outside(names: set[str]) -> None:
    unwanted = {"tests", "scripts", "envs", "checkpoints", "__pycache__", "conftest.py", "bulk_videos"}
    assert [name for name in names if unwanted & set(name.split("/"))] == []


def test_the_metadata_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    text = read_dist_info(wheel, "METADATA")
    assert "\nName: lapa\n" in text
    assert "\nRequires-Python: >=3.11\n" in text
    assert re.search("^License(-Expression)?: MIT$", text, re.MULTILINE)
    readme = (ROOT / "README.md").read_text().strip()
    assert readme in text
    assert any(name.endswith("LICENSE") for name in wheel.namelist())
