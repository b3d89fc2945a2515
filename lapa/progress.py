"""Progress bars: lively in a terminal, a line now and then in a log. Of several processes, the first one talks."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**options: Any) -> tqdm[Any]:
    """A tqdm bar with the given options that does not flood a log file."""
    terminal = sys.stderr.isatty()
    return tqdm(mininterval=0.2 if terminal else 15, dynamic_ncols=terminal, disable=not talks(), **options)


def notify(message: str) -> None:
    """Prints a line without tearing a progress bar."""
    if talks():
        tqdm.write(message)


def talks() -> bool:
    """Whether this process speaks to the user: alone it does, in a group that ``torchrun`` started the first does."""
    return os.environ.get("RANK", "0") == "0"
