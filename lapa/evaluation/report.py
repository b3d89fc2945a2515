"""The report: ``metrics.json``, the figures, and one HTML file that needs no other."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lapa.config import to_yaml
from lapa.data.files import atomic_file, write_text
from lapa.data.splits import ALL
from lapa.engine.checkpoint import Checkpoint
from lapa.evaluation.curves import training_curves
from lapa.evaluation.evaluate import Evaluation, joined_reasons, summary_rows
from lapa.evaluation.study import subject_of
from lapa.report.page import Page, html_page

METRICS_FILE = "metrics.json"


def write_report(
    out: Path, checkpoint: Checkpoint, evaluation: Evaluation, history: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Writes ``metrics.json``, the figures as PNG and WebP files, and ``report.html``, which holds them all.

    Next to them ``code_reader.npz`` has what it takes to read actions and events from codes, for the live view, if the
    system gives codes of transitions.

    Args:
        out: the folder.
        checkpoint: the system that was judged.
        evaluation: what was found.
        history: the run's lines of ``metrics.jsonl``, for the curves.

    Returns:
        The path of ``report.html``.
    """
    images = {
        name: content
        for evaluator in evaluation.evaluators
        for name, content in evaluator.images(evaluation.metrics).items()
    }
    if history:
        images["training.png"] = training_curves(history, checkpoint.model)
    page = render(checkpoint, evaluation, images)
    numbers = json_text(as_json(checkpoint, evaluation))
    out.mkdir(parents=True, exist_ok=True)
    for name, content in images.items():
        with atomic_file(out / name) as file:
            file.write(content)
    write_text(out / METRICS_FILE, numbers)
    for evaluator in evaluation.evaluators:
        evaluator.write(out)
    path = out / "report.html"
    write_text(path, page)
    return path


def as_json(checkpoint: Checkpoint, evaluation: Evaluation) -> dict[str, Any]:
    """What ``metrics.json`` holds."""
    return {
        "checkpoint": {"path": str(checkpoint.path), "digest": checkpoint.digest, "step": checkpoint.step},
        "data": evaluation.study.store.header.get("fingerprint"),
        "split": evaluation.split,
        "episodes": evaluation.episodes,
        "verdicts": [{"level": verdict.level, "sentence": verdict.sentence} for verdict in evaluation.verdicts],
        "metrics": evaluation.metrics,
        "left_out": evaluation.left_out,
        **evaluation.details(),
    }


def json_text(found: Mapping[str, Any]) -> str:
    """Indented JSON with the innermost lists in one line each; NaN is refused."""
    text = json.dumps(found, indent=2, allow_nan=False)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda row: f"[{' '.join(row[0][1:-1].split())}]", text) + "\n"


def render(checkpoint: Checkpoint, evaluation: Evaluation, images: Mapping[str, bytes]) -> str:
    """The HTML text; ``images`` are the files by name."""
    page = Page(images)
    page.heading("In a minute", "verdict")
    page.add(
        "<ul class=verdicts>"
        + "".join(f"<li class={verdict.level}>{html.escape(verdict.sentence)}</li>" for verdict in evaluation.verdicts)
        + "</ul>"
    )
    page.table(("measure", "model", "compared with"), summary_rows(evaluation.metrics))
    for sentence in joined_reasons(evaluation.left_out):
        page.add(f"<p class=note>Left out: {html.escape(sentence)}.</p>")
    for evaluator in evaluation.evaluators:
        evaluator.section(page, evaluation.metrics)
    if "training.png" in images:
        page.heading("Training", "training")
        page.picture("training.png", "the run's curves, on training batches and on the validation episodes")
    page.heading("Configuration", "configuration")
    settings = html.escape(to_yaml(checkpoint.config))
    page.add(f"<details><summary>all settings of the run</summary><pre>{settings}</pre></details>")
    return html_page(f"{subject_of([checkpoint.model])}: report", introduction(checkpoint, evaluation), page)


def introduction(checkpoint: Checkpoint, evaluation: Evaluation) -> str:
    """One paragraph of HTML: which checkpoint was judged on which episodes."""
    study = evaluation.study
    judged = html.escape(", ".join(evaluation.episodes))
    kind = "training" if study.split == "train" and "test" in study.parts else "held-out"
    kind = "recorded" if study.split == ALL else kind
    return (
        f"<p>Checkpoint <code>{html.escape(checkpoint.path.name)}</code> (SHA-256 {checkpoint.digest}…, step "
        f"{checkpoint.step}), judged on {len(study.clips):,} {study.unit}s of {len(evaluation.episodes)} {kind} "
        f"episode(s): {judged}.</p>"
    )
