"""``lapa models``."""

from __future__ import annotations

import argparse

from lapa.commands.options import Subparsers, command
from lapa.shipped import ShippedModel


def add_models(subparsers: Subparsers) -> None:
    """``lapa models``."""
    parser = command(
        subparsers,
        "models",
        run_models,
        "List the trained models that can be loaded by name with their figures, or tell all of one.",
        example="lapa models breakout",
    )
    parser.add_argument("name", nargs="?", help="model to tell all of")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run_models(arguments: argparse.Namespace) -> None:
    """Prints a table of all models, or one in full."""
    import json

    from lapa.shipped import model_named, models

    found = [model_named(arguments.name)] if arguments.name else models()
    if arguments.json:
        shown = [model.to_json() for model in found]
        print(json.dumps(shown[0] if arguments.name else shown, indent=2))
    elif arguments.name:
        print(in_full(found[0]))
    else:
        print(table(found))


def table(models: list[ShippedModel]) -> str:
    """A column for each model: what it is, and those of its figures that comparisons show."""
    from lapa.evaluation.evaluate import comparison_columns

    rows = [
        ("", *(model.name for model in models)),
        ("preset", *(model.preset for model in models)),
        ("size", *(megabytes(model.bytes) for model in models)),
    ]
    for column in comparison_columns([model.figures for model in models]):
        cells = (column.form(m.figures[column.metric]) if column.is_in(m.figures) else "-" for m in models)
        rows.append((column.label, *cells))
    widths = [max(len(row[place]) for row in rows) for place in range(len(models) + 1)]
    lines = [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *(f"{model.name}: {model.title}" for model in models)])


def in_full(model: ShippedModel) -> str:
    """Where a model comes from, and all figures that a report shows."""
    from lapa.evaluation.evaluate import summary_rows
    from lapa.report.tables import format_table

    judged = ", ".join(model.judged["episodes"])
    facts = [
        (model.name, model.title),
        ("file", f"{model.path}, {megabytes(model.bytes)}, SHA-256 {model.digest}…"),
        ("reader", str(model.reader) if model.reader else "none"),
        ("from", model.owner),
        ("trained", f"preset {model.preset}, {model.steps:,} steps, on {model.machine}"),
        *(("", line) for line in model.commands),
        ("judged on", f"split '{model.judged['split']}' of recording {model.judged['data']}, episodes {judged}"),
    ]
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {text}" for name, text in facts]
    return "\n".join([*lines, "", format_table(summary_rows(model.figures))])


def megabytes(size: int) -> str:
    """Such as "1.8 MB"."""
    return f"{size / 1e6:.1f} MB"
