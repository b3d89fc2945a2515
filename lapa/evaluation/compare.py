"""Several runs side by side, judged on the same held-out pairs."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lapa.config import config_to_dict
from lapa.data.clips import ClipDataset
from lapa.data.files import atomic_file, write_text
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.errors import DataError
from lapa.evaluation.evaluate import evaluate, split_of
from lapa.evaluation.report import METRICS_FILE, json_text, write_report
from lapa.progress import notify as print_line
from lapa.report import figures
from lapa.report.page import Page, html_page
from lapa.report.pictures import difference_image, png_bytes, sheet, to_rgb
from lapa.report.tables import Row, percent
from lapa.tracking.jsonl import read_history

NUM_EXAMPLES = 6

SEED_KEYS = ("training.seed", "training.out", "data.root", "data.store")
"""Settings in which the runs of one group may differ: they are seeds of one configuration."""

COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("gain over copying, dB", "recon/gain_over_copy_db", "{:+.2f}".format),
    ("changed pixels, dB", "recon/changed_psnr_db", "{:.1f}".format),
    ("SSIM", "recon/ssim", "{:.4f}".format),
    ("ball within 4 px", "elements/ball/within_4px", percent),
    ("paddle within 2 px", "elements/paddle/within_2px", percent),
    ("changed bricks", "elements/bricks/changed_accuracy", percent),
    ("codes used", "codebook/codes_used", "{:.0f}".format),
    ("perplexity", "codebook/perplexity", "{:.1f}".format),
    ("bits", "codebook/bits_empirical", "{:.1f}".format),
    ("action", "probe/accuracy", percent),
    ("of the oracle", "probe/share_of_oracle", "{:.3f}".format),
    ("lost by shuffled codes, dB", "control/shuffled_delta_psnr_db/t1", "{:.1f}".format),
    ("labelled and redrawn, pairs/s", "speed/pairs_per_second", "{:.0f}".format),
    ("trained, pairs/s", "speed/trained_pairs_per_second", "{:.0f}".format),
)

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

    def figures(self, name: str) -> np.ndarray:
        """A metric of each run that has it."""
        return np.array([run.metrics[name] for run in self.runs if name in run.metrics])


def compare(
    folders: Sequence[Path],
    store: FrameStore,
    out: Path,
    split: str = "test",
    *,
    device: str = "auto",
    failed: Mapping[str, str] | None = None,
    notify: Callable[[str], None] = print_line,
) -> list[Group]:
    """Judges runs on the same pairs.

    Writes ``comparison.html``, its table as ``comparison.md``, all figures as ``comparison.json``, the pictures, and a
    report of each run.

    A report that is there already, of the same checkpoint on the same recording, is not made again.

    Args:
        folders: run folders, or checkpoint files.
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
    paths = [folder / "best.pt" if folder.is_dir() else folder for folder in folders]
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
        speeds = [line["train/speed/pairs_per_s"] for line in history if "train/speed/pairs_per_s" in line]
        if speeds:
            metrics = metrics | {"speed/trained_pairs_per_second": float(np.median(speeds))}
        runs.append(JudgedRun(name, checkpoint, metrics, history))
    groups = grouped(runs)
    write_comparison(out, groups, store, split, failed or {})
    return groups


def run_names(folders: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's.

    Raises:
        DataError: two have the same.
    """
    names = [(folder if folder.is_dir() else folder.parent).resolve().name for folder in folders]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"two runs are called '{min(twice)}'; rename a folder, the comparison goes by these names")
    return names


def check_split(names: Sequence[str], checkpoints: Sequence[Checkpoint], store: FrameStore, split: str) -> None:
    """Checks that all runs are judged on the same episodes.

    Raises:
        DataError: they would not be.
    """
    judged = [sorted(episode.name for episode in split_of(c, store).get(split, [])) for c in checkpoints]
    for name, episodes in zip(names[1:], judged[1:], strict=True):
        if episodes != judged[0]:
            raise DataError(
                f"the split '{split}' of {names[0]} is {judged[0]}, that of {name} is {episodes}: nothing to compare; "
                "train on the same recording with the same data.split and data.split_seed"
            )


def judged_before(report: Path, checkpoint: Checkpoint, store: FrameStore, split: str) -> dict[str, float] | None:
    """The metrics of a report that was made of this checkpoint on this split of the recording, or None."""
    try:
        facts = json.loads((report / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return None
    judged = (facts.get("split"), facts.get("data"), facts.get("checkpoint", {}).get("digest"))
    if judged != (split, store.header.get("fingerprint"), checkpoint.digest):
        return None
    metrics: dict[str, float] = facts["metrics"]
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


def comparison_header() -> Row:
    """Names of the columns of :func:`comparison_rows`."""
    return ("what differs", "runs", "parameters", *(label for label, _, _ in COLUMNS))


def comparison_rows(groups: Sequence[Group]) -> list[Row]:
    """Group, runs, parameters, then the mean of each measure, and its standard deviation over seeds."""
    rows = []
    for group in groups:
        parameters = sum(p.numel() for p in group.runs[0].checkpoint.model.parameters())
        cells = [group.label, ", ".join(run.name for run in group.runs), f"{parameters:,}"]
        for _, name, form in COLUMNS:
            values = group.figures(name)
            if not len(values):
                cells.append("-")
                continue
            spread = f" ± {form(values.std(ddof=1)).lstrip('+')}" if len(values) > 1 else ""
            cells.append(form(values.mean()) + spread)
        rows.append(tuple(cells))
    return rows


def write_comparison(
    out: Path, groups: Sequence[Group], store: FrameStore, split: str, failed: Mapping[str, str]
) -> Path:
    """Writes the table, the curves and the pictures; returns the path of ``comparison.html``."""
    out.mkdir(parents=True, exist_ok=True)
    runs = [run for group in groups for run in group.runs]
    measures = {label: [group.figures(name) for group in groups] for label, name, _ in COLUMNS}
    images = {
        "measures.png": figures.plot_groups([group.label for group in groups], measures),
        "curves.png": figures.plot_runs({run.name: run.history for run in runs}),
        "pictures.png": png_bytes(pictures(runs, store, split)),
    }
    for name, content in images.items():
        with atomic_file(out / name) as file:
            file.write(content)
    facts = {
        group.label: {
            "runs": {run.name: {"digest": run.checkpoint.digest, "metrics": run.metrics} for run in group.runs},
            "mean": {name: float(group.figures(name).mean()) for name in sorted(common(group))},
        }
        for group in groups
    }
    write_text(out / "comparison.json", json_text(facts))
    page = Page(images)
    page.heading("Figures", "figures")
    page.text(f"Judged on the same pairs of the split '{split}'. Mean and standard deviation are over seeds.")
    table = [comparison_header(), *comparison_rows(groups)]
    write_text(out / "comparison.md", markdown(table))
    header, *rows = table if len(groups) > WIDE else list(zip(*table, strict=True))
    page.table(header, rows)
    for name, reason in failed.items():
        page.add(f"<p class=note>Missing: {html.escape(name)}: {html.escape(reason)}</p>")
    page.picture("measures.png", "each measure by group, one dot a run")
    links = ", ".join(f'<a href="{html.escape(run.name)}/report.html">{html.escape(run.name)}</a>' for run in runs)
    page.add(f"<p>Reports of the runs: {links}.</p>")
    page.heading("Training", "training")
    page.picture("curves.png", "PSNR on the validation episodes by step, above that of copying")
    page.heading("The same frames", "pictures")
    page.text(
        "Under each prediction its difference from the true next frame: white is right, red too bright, blue dark."
    )
    page.sheet("pictures.png", "the same pairs, drawn by each run")
    path = out / "comparison.html"
    write_text(path, html_page("Latent actions: comparison", "", page))
    return path


def markdown(table: Sequence[Row]) -> str:
    """A table, of which the first row is the header, as Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]]) + "\n"


def common(group: Group) -> set[str]:
    """Names of the metrics that all runs of a group have."""
    return set.intersection(*(set(run.metrics) for run in group.runs))


def pictures(runs: Sequence[JudgedRun], store: FrameStore, split: str) -> np.ndarray:
    """The same pairs as each run draws them. Runs may see frames differently: each row is in its run's own format."""
    rows: list[list[np.ndarray]] = []
    names: list[str] = []
    where: list[str] = []
    size = (0, 0)
    for run in runs:
        model = run.checkpoint.model
        episodes = split_of(run.checkpoint, store).get(split) or store.episodes
        pairs = ClipDataset(store, episodes, model.format)
        chosen = evenly_spaced(len(pairs), NUM_EXAMPLES + 2)[1:-1]
        batch = pairs[chosen]
        current, following = to_float(batch.current), to_float(batch.next)
        drawn = redraw(run.checkpoint, current, following)
        size = size if rows else model.format.size
        if not rows:
            where = [pairs.where(int(row)) for row in chosen]
            rows.append([to_rgb(frame) for frame in following.numpy()])
            names.append("true next")
        cells = [
            [to_rgb(frame) for frame in drawn],
            [difference_image(a, b) for a, b in zip(drawn, following.numpy(), strict=True)],
        ]
        rows += [[resized(cell, size) for cell in line] for line in cells]
        names += [run.name, ""]
    return sheet(rows, names, where)


@torch.inference_mode()
def redraw(checkpoint: Checkpoint, current: torch.Tensor, following: torch.Tensor) -> np.ndarray:
    """(N, C, H, W) in [0, 1], the next frames as the model draws them."""
    model = checkpoint.model
    device = next(model.parameters()).device
    drawn: np.ndarray = model(current.to(device), following.to(device)).prediction.float().clamp(0, 1).cpu().numpy()
    return drawn


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at another size, pixels kept square."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.NEAREST))
