"""Every command and every piece of Python in the README runs; long ones with a smaller preset and fewer steps."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from helpers import EXAMPLE_PLUGIN, ROOT
from lapa.cli import main
from lapa.registry import conditioners, quantizers

README = ROOT / "README.md"
SHORTER = {
    "training.max_minutes=6": "training.steps=25",
    "--preset laptop": "--preset debug",
    "--preset tokenizer_breakout": "--preset tokenizer_debug",
    "--preset rssm": "--preset rssm_debug",
    "--episodes 32": "--episodes 4 --max-steps 40",
    "--steps 200": "--steps 5",
    "name=ema,fsq model.conditioner.name=film,cross_attention": "name=ema,fsq training.steps=2",
}
BY_MAKE = ("make demo", "make test", "make test-all", "make check", "make format", "make bench")
"""Run by people and by CI; here only that the Makefile has them."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def shell_lines() -> list[str]:
    text = "".join(blocks("sh")).replace("\\\n", "")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def plugins() -> dict[str, str]:
    """The README's files of Python by name."""
    named = [(re.match(r"# (\w+\.py)\n", block), block) for block in blocks("python")]
    return {found[1]: block for found, block in named if found}


def test_the_plugins_have_twenty_lines_and_are_those_of_the_example() -> None:
    example = (EXAMPLE_PLUGIN / "example_plugin.py").read_text()
    assert len(plugins()) == 2
    for text in plugins().values():
        (defined,) = re.findall(r"^class .*?(?=\n\n\n)", text, re.MULTILINE | re.DOTALL)
        assert defined in example
        assert len([line for line in defined.splitlines() if line.strip()]) <= 24


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the README's plugins in it, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for members in (conditioners, quantizers):  # the plugins register themselves
        members.names()  # found before they are set aside
        monkeypatch.setattr(members, "_entries", dict(members._entries))
    for name, text in plugins().items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)  # another test may have one of that name
    return tmp_path


def test_every_shell_line_is_of_a_kind_that_is_tested() -> None:
    makefile = (README.parent / "Makefile").read_text()
    for line in shell_lines():
        if line in BY_MAKE:
            assert re.search(rf"^{line.split()[1]}:", makefile, flags=re.MULTILINE), line
        else:
            assert line.startswith("lapa ") or line == "pip install .", line


def test_the_commands_and_the_python_run_in_order(newcomer: Path) -> None:
    commands = [line for line in shell_lines() if line.startswith("lapa ")]
    # The pipeline first: other sections use what it makes.
    for line in sorted(commands, key=lambda line: not line.startswith("lapa record")):
        for long, short in SHORTER.items():
            line = line.replace(long, short)
        if line.startswith("lapa train") and "--preset" not in line:
            line += " --preset debug"
        assert main(shlex.split(line)[1:]) == 0, line
    assert "PSNR gain over copying" in (newcomer / "report" / "report.html").read_text()
    assert (newcomer / "labels.jsonl").read_text().count("\n") == 5
    names: dict[str, object] = {}
    for block in blocks("python"):
        if block not in plugins().values():
            exec(compile(block, str(README), "exec"), names)
    assert names["codes"].shape == names["code"].shape  # type: ignore[attr-defined]
