"""Where a run's metrics go: ``metrics.jsonl`` always; Weights & Biases and TensorBoard when asked.

Names are ``stage/group/name``, such as ``val/recon/psnr_db``.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lapa import distributed
from lapa.config import Config, TrackingConfig, config_to_dict
from lapa.data.files import write_text
from lapa.errors import ConfigError

MAX_BINS = 512
"""Weights & Biases refuses longer histograms."""
FINISH_TIMEOUT = 60.0
"""Seconds that Weights & Biases may go on sending at a run's end; by itself it waits for a lost network for ever."""


class Tracker(ABC):
    """Takes what a run has to tell."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes numbers by name."""

    @abstractmethod
    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        """Takes how often each of K things was seen, (K,) int64."""

    @abstractmethod
    def image(self, step: int, name: str, path: Path) -> None:
        """Takes a PNG file that has just been written."""

    @abstractmethod
    def close(self) -> None:
        """Writes what is left."""


class JsonlTracker(Tracker):
    """One JSON object per line: ``step``, ``seconds`` since the start, and the metrics; NaN and infinity are null.

    Args:
        path: the file; images are named relative to its folder.
        resume_from: step from which the run goes on, after the lines up to it; None begins a new file.
    """

    def __init__(self, path: Path, *, resume_from: int | None = None) -> None:
        self._path = path
        before = 0.0
        if resume_from is None:
            write_text(path, "")
        elif path.exists():
            kept = [line for line in read_lines(path) if line["step"] <= resume_from]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
            before = kept[-1]["seconds"] if kept else 0.0
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (closed by close)
        self._started = time.monotonic() - before

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, {name: value if math.isfinite(value) else None for name, value in metrics.items()})

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        self._write(step, {name: counts.tolist()})

    def image(self, step: int, name: str, path: Path) -> None:
        self._write(step, {name: path.relative_to(self._path.parent).as_posix()})

    def close(self) -> None:
        with self._named():
            self._file.close()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._started, 3)
        with self._named():
            self._file.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)  # a full disk does not say where
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, without a last one that was cut when its process was killed."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


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


class TensorBoardTracker(Tracker):
    """TensorBoard event files, in ``tensorboard`` in the run's folder.

    Args:
        out: the run's folder.
        config: what to show as the run's configuration.
        resume_from: step from which the run goes on; what was told after it is hidden. None hides an earlier run.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, out: Path, config: Mapping[str, Any], *, resume_from: int | None = None) -> None:
        imported("tensorboard", "tensorboard", "tracking.tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        purge = 0 if resume_from is None else resume_from + 1
        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=purge)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", resume_from or 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        numbers = np.arange(len(counts), dtype=np.float64)
        self._writer.add_histogram_raw(
            name,
            min=0,
            max=len(counts),
            num=int(counts.sum()),
            sum=float(numbers @ counts),
            sum_squares=float(numbers**2 @ counts),
            bucket_limits=(numbers + 1).tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def image(self, step: int, name: str, path: Path) -> None:
        from PIL import Image

        with Image.open(path) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Trackers:
    """Tells several trackers; close it by leaving it as a context.

    One that fails is told of once and left out from then on: a run does not end because of who watches it. But
    the first, the run's own record, must not fail.

    Args:
        record: the run's own record; None in processes that write nothing.
        others: trackers that may fail.
        notify: told of each that does.
    """

    def __init__(self, record: Tracker | None, others: list[Tracker], notify: Callable[[str], None]) -> None:
        self._record = record
        self._others = others
        self._notify = notify

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tells all of numbers by name."""
        self._tell(lambda tracker: tracker.log(step, metrics))

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        """Tells all how often each of K things was seen, (K,) int64."""
        self._tell(lambda tracker: tracker.histogram(step, name, counts))

    def image(self, step: int, name: str, path: Path) -> None:
        """Tells all of a PNG file that has just been written."""
        self._tell(lambda tracker: tracker.image(step, name, path))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        try:
            if self._record is not None:
                call(self._record)
        finally:  # the others are closed even then
            for tracker in list(self._others):
                try:
                    call(tracker)
                except Exception as error:  # a stranger's code can raise anything
                    self._others.remove(tracker)
                    self._notify(
                        f"WARNING: {type(tracker).__name__} failed ({first_line(error)}); the run goes on without it"
                    )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(lambda tracker: tracker.close())


def open_trackers(
    config: Config, out: Path, *, facts: Mapping[str, Any], resume_from: int | None, notify: Callable[[str], None]
) -> Trackers:
    """The trackers that a configuration asks for; of several processes, only the first one tracks.

    Args:
        config: the run's configuration.
        out: the run's folder.
        facts: what was trained, on what; plain values.
        resume_from: step from which the run goes on; None for a new one.
        notify: told of a tracker that cannot start.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    if not distributed.is_main():
        return Trackers(None, [], notify)
    options = config.tracking
    check_packages(options)
    shown = {**facts, "config": config_to_dict(config)}
    resumed = resume_from is not None
    makers: dict[str, Callable[[], Tracker]] = {}
    if wants_wandb(options):
        makers["Weights & Biases"] = lambda: WandbTracker(options, out, shown, notify, resumed=resumed)
    if options.tensorboard:
        makers["TensorBoard"] = lambda: TensorBoardTracker(out, shown, resume_from=resume_from)
    record = JsonlTracker(out / "metrics.jsonl", resume_from=resume_from)
    others: list[Tracker] = []
    for name, make in makers.items():
        try:
            others.append(make())
        except Exception as error:  # a stranger's code can raise anything
            notify(f"WARNING: {name} cannot start ({first_line(error)}); the run goes on without it")
    return Trackers(record, others, notify)


def check_packages(options: TrackingConfig) -> None:
    """Checks that the trackers' packages are installed, and writes nothing.

    Raises:
        ConfigError: one is not.
    """
    if wants_wandb(options):
        imported("wandb", "wandb", "tracking.wandb")
    if options.tensorboard:
        imported("tensorboard", "tensorboard", "tracking.tensorboard")


def wants_wandb(options: TrackingConfig) -> bool:
    """Whether Weights & Biases is asked for, and the environment does not disable it."""
    return options.wandb != "off" and os.environ.get("WANDB_MODE") != "disabled"


def imported(module: str, extra: str, option: str) -> Any:
    """A module that an extra of the package installs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"{option}: needs the package '{module}'; install it with `pip install lapa[{extra}]`"
        ) from None


def first_line(error: Exception) -> str:
    """The start of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
