"""What tests of several folders share."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def install(distribution: Path, folder: Path) -> Path:
    """Python of a fresh environment that sees the packages of this one, with a distribution installed by pip.

    Args:
        distribution: folder with its ``pyproject.toml`` and modules.
        folder: empty, for the environment.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    ours = sysconfig.get_paths()["purelib"]
    theirs = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    (Path(theirs) / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    source = folder / "source"
    source.mkdir()
    for file in distribution.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    run(Path(sys.executable), "-m", "pip", "--python", str(python), "install", *options, str(source))
    return python


def run(python: Path, *arguments: str, code: int = 0) -> str:
    """Runs Python; returns what it printed."""
    done = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    return done.stdout
