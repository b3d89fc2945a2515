"""The report: one HTML file that needs nothing beside it, and its figures as PNG."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from lapa.checkpoint import Checkpoint
from lapa.config import to_yaml
from lapa.data.files import atomic_file, write_text
from lapa.evaluation.evaluate import METRICS_FILE, Evaluation
from lapa.evaluation.pictures import pair_strips, png_bytes
from lapa.tracking import read_lines

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
td.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; height: auto; } pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem; }
.note { color: #555; }
"""


def summary_rows(metrics: dict[str, float]) -> list[tuple[str, str, str]]:
    """The table of a run: what was measured, the model's figure, and what to hold it against.

    Rows whose figures are missing are left out.
    """

    def db(name: str) -> str:
        return f"{metrics[name]:.1f} dB"

    def percent(name: str) -> str:
        return f"{100 * metrics[name]:.1f} %"

    rows: list[tuple[str, str, str]] = [
        ("PSNR", db("recon/psnr_db"), f"copying the current frame {db('recon/copy_psnr_db')}"),
        ("PSNR gain over copying", f"{metrics['recon/gain_over_copy_db']:+.1f} dB", ""),
        (
            "PSNR on changed pixels",
            db("recon/changed_psnr_db"),
            f"copying {db('recon/copy_changed_psnr_db')}",
        ),
        ("SSIM", f"{metrics['recon/ssim']:.4f}", f"copying {metrics['recon/copy_ssim']:.4f}"),
        (
            "PSNR lost with the codes of other pairs",
            f"{metrics['recon/shuffled_drop_db']:.1f} dB",
            "0 if the codes said nothing",
        ),
        (
            "codes used",
            f"{metrics['codebook/codes_used']:.0f} of {metrics['codebook/num_codes']:.0f}",
            f"perplexity {metrics['codebook/perplexity']:.1f}",
        ),
        (
            "bits per transition",
            f"{metrics['codebook/bits_empirical']:.0f}",
            f"at most, of {metrics['codebook/bits_nominal']:.0f} nominal",
        ),
    ]
    if "probe/accuracy" in metrics:
        against = f"majority {percent('probe/majority_accuracy')}"
        if "probe/oracle_accuracy" in metrics:
            against = f"oracle {percent('probe/oracle_accuracy')}, {against}"
        against += f"; a linear probe {percent('probe/linear_accuracy')}"
        rows.append(("true action read from the codes", percent("probe/accuracy"), against))
    if "elements/ball/within_4px" in metrics:
        rows.append(
            (
                "ball within 4 px, where it flies free",
                percent("elements/ball/within_4px"),
                f"copying {percent('elements/ball/copy_within_4px')}",
            )
        )
    if "elements/paddle/within_2px" in metrics:
        rows.append(
            (
                "paddle within 2 px",
                percent("elements/paddle/within_2px"),
                f"copying {percent('elements/paddle/copy_within_2px')}",
            )
        )
    if "elements/bricks/accuracy" in metrics:
        against = f"copying {100 * metrics['elements/bricks/copy_accuracy']:.2f} %"
        if "elements/bricks/changed_accuracy" in metrics:
            against += f"; of bricks just broken {percent('elements/bricks/changed_accuracy')}, copying 0 %"
        rows.append(("bricks right", f"{100 * metrics['elements/bricks/accuracy']:.2f} %", against))
    rows.append(("speed", f"{metrics['speed/pairs_per_second']:.0f} pairs/s", "labelled and redrawn"))
    return rows


def format_table(rows: list[tuple[str, str, str]]) -> str:
    """The rows as aligned text, for the terminal."""
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {against}".rstrip() for name, value, against in rows)


def write_report(
    out: Path, checkpoint: Checkpoint, evaluation: Evaluation, history: list[dict[str, Any]] | None = None
) -> Path:
    """Writes ``metrics.json``, ``pairs.png``, ``codes.png``, perhaps ``training.png`` and ``report.html``.

    Args:
        out: the folder.
        checkpoint: the model that was judged.
        evaluation: what was found.
        history: the run's lines of ``metrics.jsonl``, for the curves.

    Returns:
        The path of ``report.html``.
    """
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "checkpoint": {"path": str(checkpoint.path), "digest": checkpoint.digest, "step": checkpoint.step},
        "episodes": evaluation.episodes,
        "metrics": evaluation.metrics,
        "left_out": evaluation.left_out,
    }
    write_text(out / METRICS_FILE, json.dumps(facts, indent=2, allow_nan=False) + "\n")
    figures = {
        "pairs.png": png_bytes(pair_strips(evaluation.examples)),
        "codes.png": plot_codes(evaluation.code_counts),
    }
    if history:
        figures["training.png"] = plot_training(history)
    for name, content in figures.items():
        with atomic_file(out / name) as file:
            file.write(content)
    path = out / "report.html"
    write_text(path, render(checkpoint, evaluation, figures))
    return path


def render(checkpoint: Checkpoint, evaluation: Evaluation, figures: dict[str, bytes]) -> str:
    """The HTML text; ``figures`` are PNG files by name."""
    rows = "\n".join(
        f"<tr><td>{name}</td><td class=figure>{value}</td><td>{against}</td></tr>"
        for name, value, against in (map(html.escape, row) for row in summary_rows(evaluation.metrics))
    )
    notes = "".join(f"<p class=note>Left out: {html.escape(sentence)}.</p>" for sentence in evaluation.left_out)
    images = {name: f"data:image/png;base64,{base64.b64encode(content).decode()}" for name, content in figures.items()}
    curves = ""
    if "training.png" in images:
        curves = (
            "<h2>Training</h2><p>PSNR on training batches and on the validation episodes, beside copying.</p>"
            f'<img alt="training curves" src="{images["training.png"]}">'
        )
    where = ", ".join(example.where for example in evaluation.examples)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>lapa report</title><style>{STYLE}</style></head><body>
<h1>Latent actions: report</h1>
<p>Checkpoint <code>{html.escape(checkpoint.path.name)}</code> (SHA-256 {checkpoint.digest}…, step {checkpoint.step}),
judged on {len(evaluation.episodes)} held-out episode(s): {html.escape(", ".join(evaluation.episodes))}.</p>
<div class=wide><table><tr><th>measure</th><th>model</th><th>beside</th></tr>
{rows}</table></div>{notes}
<h2>What it draws</h2>
<p>Pairs at even distances over the held-out episodes, not chosen by quality ({html.escape(where)}). From top to bottom:
the current frame, the true next frame, the predicted next frame, and their difference (white is no error, red is drawn
too bright, blue too dark).</p>
<img alt="current, next, predicted and difference" src="{images["pairs.png"]}">
<h2>Codes</h2>
<p>How often each of the {len(evaluation.code_counts)} codes was used, most frequent first.</p>
<img alt="histogram of code use" src="{images["codes.png"]}">
{curves}
<h2>Configuration</h2><pre>{html.escape(to_yaml(checkpoint.config))}</pre>
</body></html>
"""


def plot_codes(counts: np.ndarray) -> bytes:
    """Bars of code use, sorted, as a PNG file."""
    figure, axes = _axes()
    axes.bar(np.arange(len(counts)), np.sort(counts)[::-1], width=1.0, color="#4477aa")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("code, by rank")
    axes.set_ylabel("times used")
    return _png(figure)


def plot_training(history: list[dict[str, Any]]) -> bytes:
    """PSNR over training steps as a PNG file."""
    figure, axes = _axes()
    for name, label, style in (
        ("train/recon/psnr_db", "training batches", "-"),
        ("val/recon/psnr_db", "validation episodes", "o-"),
        ("val/recon/copy_psnr_db", "copying, validation", "--"),
    ):
        points = [(line["step"], line[name]) for line in history if line.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel("PSNR, dB")
    axes.legend()
    return _png(figure)


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(8, 3), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; empty where there is no such file."""
    return read_lines(path) if path.exists() else []
