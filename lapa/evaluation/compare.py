"""Several runs side by side, judged on the same held-out clips."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lapa.config import config_to_dict
from lapa.contracts import Drawer
from lapa.data.files import atomic_file, write_text
from lapa.data.splits import evenly_spaced
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.errors import DataError
from lapa.evaluation.curves import curves_of_runs
from lapa.evaluation.evaluate import comparison_columns, evaluate
from lapa.evaluation.evaluator import Column
from lapa.evaluation.report import METRICS_FILE, json_text, write_report
from lapa.evaluation.speed import speed_of_training
from lapa.evaluation.study import Study, split_of, subject_of, unit_of
from lapa.progress import notify as print_line
from lapa.report import figures
from lapa.report.page import Page, html_page
from lapa.report.pictures import difference_image, png_bytes, sheet, to_rgb
from lapa.report.tables import Row
from lapa.shipped import checkpoint_path
from lapa.tracking.jsonl import read_history

NUM_EXAMPLES = 6

SEED_KEYS = ("training.seed", "training.out", "data.root", "data.store")
"""Settings in which the runs of one group may differ: they are seeds of one configuration."""

LONGEST_LABEL = 80
"""Characters of a group's label in a diagram."""

WIDE = 6
"""More groups than this stand in rows, not in columns."""


@dataclasses.dataclass(frozen=True)
class JudgedRun:
    """One run and what was found of it.

    Attributes:
        name: of its folder.
        checkpoint: its best one.
        metrics: ``group/name`` -> figure.
        history: its lines of ``metrics.jsonl``.
    """

    name: str
    checkpoint: Checkpoint
    metrics: dict[str, float]
    history: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: the settings in which they differ from the other groups.
        runs: at least one.
    """

    label: str
    runs: list[JudgedRun]

    @property
    def name(self) -> str:
        """The label, or the names of the runs where that is too long for a diagram."""
        return self.label if len(self.label) <= LONGEST_LABEL else ", ".join(run.name for run in self.runs)

    def figures(self, column: Column | str) -> np.ndarray:
        """A metric, by its full name or as a column, of each run that has it."""
        column = Column("", column, str) if isinstance(column, str) else column
        return np.array([run.metrics[column.metric] for run in self.runs if column.is_in(run.metrics)])


def compare(
    folders: Sequence[str | Path],
    store: FrameStore,
    out: Path,
    split: str = "test",
    *,
    device: str = "auto",
    failed: Mapping[str, str] | None = None,
    notify: Callable[[str], None] = print_line,
) -> list[Group]:
    """Judges runs on the same clips.

    Writes ``comparison.html``, its table as ``comparison.md``, all figures as ``comparison.json``, the pictures, and a
    report of each run.

    A report that is there already, of the same checkpoint on the same recording, is not made again.

    Args:
        folders: run folders, checkpoint files, or names of models that come with lapa.
        store: the recording.
        out: folder to write to.
        split: ``train``, ``val`` or ``test``.
        device: where to run the models.
        failed: why further runs are not there, by name: it is said on the page.
        notify: told in one line each what is judged.

    Raises:
        CheckpointError: a run has no readable checkpoint.
        DataError: there is no run, one was trained on what another is judged on, or they cannot be told apart.
    """
    if not folders:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (failed or {}).items())
        raise DataError(f"there is no run to compare{': ' * bool(reasons)}{reasons}")
    names = run_names(folders)
    places = [checkpoint_path(folder) for folder in folders]
    paths = [place / "best.pt" if place.is_dir() else place for place in places]
    checkpoints = [load_checkpoint(path, device) for path in paths]
    check_split(names, checkpoints, store, split)
    runs = []
    for name, path, checkpoint in zip(names, paths, checkpoints, strict=True):
        history = read_history(path.parent / "metrics.jsonl")
        report = out / name
        metrics = judged_before(report, checkpoint, store, split)
        if metrics is None:
            notify(f"judging {name}")
            found = evaluate(checkpoint, store, split, notify=lambda _: None)
            write_report(report, checkpoint, found, history)
            metrics = found.metrics
        runs.append(
            JudgedRun(name, checkpoint, metrics | speed_of_training(history, unit_of(checkpoint.model)), history)
        )
    groups = grouped(runs)
    write_comparison(out, groups, store, split, failed or {})
    return groups


def run_names(folders: Sequence[str | Path]) -> list[str]:
    """A name for each run: its folder's, or that of the model that comes with lapa.

    Raises:
        CheckpointError: one is neither there nor the name of a model.
        DataError: two have the same.
    """
    names = [run_name(folder) for folder in folders]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"two runs are called '{min(twice)}'; rename a folder, the comparison goes by these names")
    return names


def run_name(folder: str | Path) -> str:
    """A run's name."""
    path = checkpoint_path(folder)
    if path != Path(folder):  # it was the name of a model
        return path.stem
    return (path if path.is_dir() else path.parent).resolve().name


def check_split(names: Sequence[str], checkpoints: Sequence[Checkpoint], store: FrameStore, split: str) -> None:
    """Checks that all runs are judged on the same episodes.

    Raises:
        DataError: they would not be.
    """
    judged = [sorted(episode.name for episode in split_of(c, store, split).get(split, [])) for c in checkpoints]
    for name, episodes in zip(names[1:], judged[1:], strict=True):
        if episodes != judged[0]:
            raise DataError(
                f"the split '{split}' of {names[0]} is {judged[0]}, that of {name} is {episodes}: nothing to compare; "
                "train on the same recording with the same data.split and data.split_seed"
            )


def judged_before(report: Path, checkpoint: Checkpoint, store: FrameStore, split: str) -> dict[str, float] | None:
    """The metrics of a report that was made of this checkpoint on this split of the recording, or None."""
    try:
        found = json.loads((report / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return None
    judged = (found.get("split"), found.get("data"), found.get("checkpoint", {}).get("digest"))
    recording = store.header.get("fingerprint")  # an extracted dataset has none: nobody knows whether it is the same
    if recording is None or judged != (split, recording, checkpoint.digest):
        return None
    metrics: dict[str, float] = found["metrics"]
    return metrics


def grouped(runs: Sequence[JudgedRun]) -> list[Group]:
    """Runs of one configuration together, in the order of their first."""
    settings = [flat(config_to_dict(run.checkpoint.config)) for run in runs]
    for each in settings:
        for key in SEED_KEYS:
            each.pop(key, None)
    differing = sorted({key for each in settings for key in each if any(o.get(key) != each[key] for o in settings)})
    # Where another plugin is named, its options differ too; the name alone is enough, if it tells the groups apart.
    swapped = [key.removesuffix("name") for key in differing if key.startswith("model.") and key.endswith(".name")]
    brief = [key for key in differing if key.endswith(".name") or not key.startswith(tuple(swapped))]
    groups: dict[str, tuple[str, list[JudgedRun]]] = {}
    for run, each in zip(runs, settings, strict=True):
        whole, short = (
            ", ".join(f"{key.removesuffix('.name').removeprefix('model.')}={each[key]}" for key in keys if key in each)
            for keys in (differing, brief)
        )
        groups.setdefault(whole, (short, []))[1].append(run)
    shorts = [short for short, _ in groups.values()]
    return [
        Group((short if shorts.count(short) == 1 else whole) or "all runs", members)
        for whole, (short, members) in groups.items()
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def columns_of(groups: Sequence[Group]) -> list[Column]:
    """The measures that any of the runs has."""
    return comparison_columns([run.metrics for group in groups for run in group.runs])


def comparison_header(groups: Sequence[Group]) -> Row:
    """Names of the columns of :func:`comparison_rows`."""
    return ("what differs", "runs", "parameters", *(column.label for column in columns_of(groups)))


def comparison_rows(groups: Sequence[Group]) -> list[Row]:
    """Group, runs, parameters, then the mean of each measure, and its standard deviation over seeds."""
    rows = []
    for group in groups:
        parameters = sum(p.numel() for p in group.runs[0].checkpoint.model.parameters())
        cells = [group.label, ", ".join(run.name for run in group.runs), f"{parameters:,}"]
        cells += [mean_and_deviation(group.figures(column), column.form) for column in columns_of(groups)]
        rows.append(tuple(cells))
    return rows


def mean_and_deviation(values: np.ndarray, form: Callable[[float], str]) -> str:
    """Such as "5.2 ± 0.3"; without the second part for a single value, "-" for none."""
    if not len(values):
        return "-"
    deviation = f" ± {form(values.std(ddof=1)).lstrip('+')}" if len(values) > 1 else ""
    return form(values.mean()) + deviation


def write_comparison(
    out: Path, groups: Sequence[Group], store: FrameStore, split: str, failed: Mapping[str, str]
) -> Path:
    """Writes the table, the curves and the pictures; returns the path of ``comparison.html``."""
    out.mkdir(parents=True, exist_ok=True)
    runs = [run for group in groups for run in group.runs]
    measures = {column.label: [group.figures(column) for group in groups] for column in columns_of(groups)}
    images = {
        "measures.png": figures.plot_groups([group.name for group in groups], measures),
        "curves.png": curves_of_runs({run.name: run.history for run in runs}, runs[0].checkpoint.model.best),
    }
    drawing = [run for run in runs if isinstance(run.checkpoint.model, Drawer)]
    if drawing:
        images["pictures.png"] = png_bytes(pictures(drawing, store, split))
    for name, content in images.items():
        with atomic_file(out / name) as file:
            file.write(content)
    write_text(out / "comparison.json", json_text(as_json(groups)))
    table = [comparison_header(groups), *comparison_rows(groups)]
    write_text(out / "comparison.md", markdown(table))
    path = out / "comparison.html"
    title = f"{subject_of([run.checkpoint.model for run in runs])}: comparison"
    write_text(path, html_page(title, "", comparison_page(images, table, runs, split, failed)))
    return path


def as_json(groups: Sequence[Group]) -> dict[str, Any]:
    """What ``comparison.json`` holds: the metrics of each run, and their mean over each group."""
    return {
        group.label: {
            "runs": {run.name: {"digest": run.checkpoint.digest, "metrics": run.metrics} for run in group.runs},
            "mean": {name: float(group.figures(name).mean()) for name in sorted(common(group))},
        }
        for group in groups
    }


def comparison_page(
    images: Mapping[str, bytes],
    table: Sequence[Row],
    runs: Sequence[JudgedRun],
    split: str,
    failed: Mapping[str, str],
) -> Page:
    """The table, of which the first row is the header, the curves, and the pictures."""
    page = Page(images)
    page.heading("Figures", "figures")
    units = {unit_of(run.checkpoint.model) for run in runs}
    unit = units.pop() if len(units) == 1 else "frame"
    page.text(f"Judged on the same {unit}s of the split '{split}'. Mean and standard deviation are over seeds.")
    header, *rows = table if len(table) - 1 > WIDE else list(zip(*table, strict=True))
    page.table(header, rows)
    for name, reason in failed.items():
        page.add(f"<p class=note>Missing: {html.escape(name)}: {html.escape(reason)}</p>")
    page.picture("measures.png", "each measure by group, one dot a run")
    links = ", ".join(f'<a href="{html.escape(run.name)}/report.html">{html.escape(run.name)}</a>' for run in runs)
    page.add(f"<p>Reports of the runs: {links}.</p>")
    page.heading("Training", "training")
    page.picture("curves.png", "validation of each run by training step")
    if "pictures.png" in images:
        page.heading("The same frames", "pictures")
        drawn, true = ("prediction", "true next frame") if unit == "pair" else ("drawn frame", "true one")
        page.text(f"Under each {drawn} its difference from the {true}: white is right, red too bright, blue dark.")
        page.sheet("pictures.png", f"the same {unit}s, drawn by each run")
    return page


def markdown(table: Sequence[Row]) -> str:
    """A table, of which the first row is the header, as Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]]) + "\n"


def common(group: Group) -> set[str]:
    """Names of the metrics that all runs of a group have."""
    return set.intersection(*(set(run.metrics) for run in group.runs))


def pictures(runs: Sequence[JudgedRun], store: FrameStore, split: str) -> np.ndarray:
    """The same frames as each run draws them. Runs may see frames differently: each row is in its run's own format."""
    studies = [Study(run.checkpoint, store, split) for run in runs]
    last = [study.clips.starts + study.spec.frames - 1 for study in studies]
    shared = functools.reduce(np.intersect1d, last)
    chosen = shared[evenly_spaced(len(shared), NUM_EXAMPLES + 2)[1:-1]]
    rows: list[list[np.ndarray]] = []
    names: list[str] = []
    where: list[str] = []
    size = studies[0].format.size
    for run, study, ends in zip(runs, studies, last, strict=True):
        examples = list(study.examples(np.searchsorted(ends, chosen)))
        if not rows:
            where = [example.where for example in examples]
            rows.append([to_rgb(example.next) for example in examples])
            names.append("true next" if study.unit == "pair" else "true")
        cells = [
            [to_rgb(example.prediction) for example in examples],
            [difference_image(example.prediction, example.next) for example in examples],
        ]
        rows += [[resized(cell, size) for cell in line] for line in cells]
        names += [run.name, ""]
    return sheet(rows, names, where)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at another size, pixels kept square."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.NEAREST))
