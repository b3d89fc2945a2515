"""Progress bars: lively in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**options: Any) -> tqdm[Any]:
    """A tqdm bar with the given options that does not flood a log file."""
    terminal = sys.stderr.isatty()
    return tqdm(mininterval=0.2 if terminal else 15, dynamic_ncols=terminal, **options)


def notify(message: str) -> None:
    """Prints a line without tearing a progress bar."""
    tqdm.write(message)
