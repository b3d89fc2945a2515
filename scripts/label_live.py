"""`lapa watch`, as a script."""

import sys

from lapa.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("watch"))
