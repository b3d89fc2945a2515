"""Where a run's metrics go: ``metrics.jsonl`` always; Weights & Biases and TensorBoard when asked.

Names are ``stage/group/name``, such as ``val/recon/psnr_db``.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lapa.config import TrackingConfig
from lapa.data.files import write_text
from lapa.errors import ConfigError
from lapa.tracking.tracker import Tracker, first_line, imported

MAX_BINS = 512
"""Weights & Biases refuses longer histograms."""
FINISH_TIMEOUT = 60.0
"""Seconds that Weights & Biases may go on sending at a run's end; by itself it waits for a lost network for ever."""


class WandbTracker(Tracker):
    """Weights & Biases. A run that is resumed keeps its identity.

    Args:
        options: which project, which mode.
        out: the run's folder; its files go to ``wandb`` in there.
        config: what to show as the run's configuration.
        notify: told where the files are and how to send them, if they stay on this machine.
        resumed: whether the run in the folder goes on; otherwise a new one begins.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(
        self,
        options: TrackingConfig,
        out: Path,
        config: Mapping[str, Any],
        notify: Callable[[str], None],
        *,
        resumed: bool = False,
    ) -> None:
        self._wandb = imported("wandb", "wandb", "tracking.wandb")
        mode = wandb_mode(options.wandb)
        identity = out / "wandb_run.txt"
        if not (resumed and identity.exists()):
            write_text(identity, uuid.uuid4().hex[:12])
        settings = self._wandb.Settings(
            init_timeout=options.init_timeout,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            console="off",
            silent=True,
            save_code=False,
        )
        fixed = {
            "project": options.project,
            "name": options.name or out.name,
            "dir": str(out),
            "id": identity.read_text().strip(),
            "config": dict(config),
            "settings": settings,
        }
        try:
            if mode == "online" and not has_wandb_key():  # wandb would ask for one, and wait
                raise ConfigError("there is no API key; `wandb login` takes one")
            self._run = self._wandb.init(mode=mode, resume="allow" if mode == "online" else None, **fixed)
        except Exception as error:  # no network, a wrong key, a server that is down
            if mode != "online":
                raise
            notify(f"WARNING: Weights & Biases cannot be reached ({first_line(error)}); tracking offline")
            self._wandb.teardown()  # the service would hold the run's identity
            mode = "offline"
            self._run = self._wandb.init(mode=mode, **fixed)
        # Several calls can tell of one step, so the step is a metric, and not the counter of calls.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._sync = f"`wandb sync {Path(self._run.dir).parent}`"
        if mode == "offline":
            notify(f"Weights & Biases is offline; send the run with {self._sync}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        edges = np.unique(np.linspace(0, len(counts), min(len(counts), MAX_BINS) + 1).astype(np.int64))
        binned = np.add.reduceat(counts, edges[:-1])
        self._run.log({"step": step, name: self._wandb.Histogram(np_histogram=(binned, edges))})

    def image(self, step: int, name: str, path: Path) -> None:
        self._run.log({"step": step, name: self._wandb.Image(str(path))})

    def close(self) -> None:
        try:
            self._run.finish()
        except TimeoutError:
            raise TimeoutError(f"it could not send all in {FINISH_TIMEOUT:.0f} s; send it with {self._sync}") from None


def wandb_mode(asked: str) -> str:
    """``online``, ``offline`` or ``disabled``: what the environment says, else what was asked for."""
    # An empty value means unset here, but is an error to wandb itself.
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)
    named = os.environ.get("WANDB_MODE", asked)
    if named == "auto":
        return "online" if has_wandb_key() else "offline"
    return named


def has_wandb_key() -> bool:
    """Whether wandb knows a key for its server: from the environment, its settings, or the netrc file.

    Neither the server nor the user is asked.
    """
    wandb = imported("wandb", "wandb", "tracking.wandb")
    wandb.setup(wandb.Settings(silent=True))  # else it tells where it found the key
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError:  # a malformed one; starting the run says what is wrong with it
        return True
