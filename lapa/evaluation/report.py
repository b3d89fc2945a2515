"""The report: ``metrics.json``, the figures, and one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lapa.config import to_yaml
from lapa.data.files import atomic_file, write_text
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.engine.checkpoint import Checkpoint
from lapa.evaluation.codebook import code_map
from lapa.evaluation.codes import CodeEvents, CodeJudgement
from lapa.evaluation.drawing import Drawn
from lapa.evaluation.evaluate import Evaluation
from lapa.inference.reading import READER_FILE
from lapa.report import figures, tables
from lapa.report.page import Page, html_page
from lapa.report.pictures import (
    Example,
    difference_image,
    example_sheet,
    movie,
    outlined,
    png_bytes,
    sheet,
    to_rgb,
)

METRICS_FILE = "metrics.json"

NUM_EXAMPLES = 6
EXTREMES = {"best": 2, "median": 2, "worst": 2}
"""How many pairs are shown of each, by their error on changed pixels."""

MOVIE_STEPS = 200
GALLERY = 6
"""Transitions that are shown of a code."""


def write_report(
    out: Path, checkpoint: Checkpoint, evaluation: Evaluation, history: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Writes ``metrics.json``, the figures as PNG and WebP files, and ``report.html``, which holds them all.

    Beside them ``code_reader.npz`` has what it takes to read actions and events from codes, for the live view.

    Args:
        out: the folder.
        checkpoint: the model that was judged.
        evaluation: what was found.
        history: the run's lines of ``metrics.jsonl``, for the curves.

    Returns:
        The path of ``report.html``.
    """
    images = draw_images(evaluation, history)
    page = render(checkpoint, evaluation, images)
    numbers = json_text(facts(checkpoint, evaluation))
    out.mkdir(parents=True, exist_ok=True)
    for name, content in images.items():
        with atomic_file(out / name) as file:
            file.write(content)
    write_text(out / METRICS_FILE, numbers)
    if evaluation.codes:
        evaluation.codes.reader.save(out / READER_FILE, checkpoint.digest)
    path = out / "report.html"
    write_text(path, page)
    return path


def facts(checkpoint: Checkpoint, evaluation: Evaluation) -> dict[str, Any]:
    """What ``metrics.json`` holds."""
    found: dict[str, Any] = {
        "checkpoint": {"path": str(checkpoint.path), "digest": checkpoint.digest, "step": checkpoint.step},
        "data": evaluation.drawn.pairs.store.header.get("fingerprint"),
        "split": evaluation.split,
        "episodes": evaluation.episodes,
        "verdicts": [{"level": verdict.level, "sentence": verdict.sentence} for verdict in evaluation.verdicts],
        "metrics": evaluation.metrics,
        "splits": evaluation.splits,
        "by_episode": evaluation.by_episode,
        "left_out": evaluation.left_out,
    }
    if codes := evaluation.codes:
        found["code_counts"] = codes.use.totals.tolist()
        if probe := codes.probe:
            found["confusion"] = {"classes": codes.action_names, "counts": probe.confusion.tolist()}
        if events := codes.events:
            found["events"] = {
                "names": list(events.names),
                "counts": events.judged.event_counts.tolist(),
                "codes": {
                    found.name: [events.code_names[code] for code in found.codes]
                    for found in tables.event_codes(events)
                },
                "code_counts": events.judged.code_counts.tolist(),
                "code_by_event": events.judged.counts.astype(int).tolist(),
                "lift": tables.nan_free(events.judged.lift()),
                "nmi": tables.nan_free(events.judged.nmi()),
            }
    return found


def json_text(found: Mapping[str, Any]) -> str:
    """Indented JSON with the innermost lists in one line each; NaN is refused."""
    text = json.dumps(found, indent=2, allow_nan=False)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda row: f"[{' '.join(row[0][1:-1].split())}]", text) + "\n"


# Pictures


def draw_images(evaluation: Evaluation, history: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """All figures of the report by file name, in its order."""
    drawn, metrics = evaluation.drawn, evaluation.metrics
    rows = evenly_spaced(len(drawn.pairs), NUM_EXAMPLES + 2)[1:-1]
    images = {
        "pairs.png": png_bytes(example_sheet(examples(drawn, rows))),
        "extremes.png": png_bytes(extremes(drawn)),
        "movie.webp": movie(movie_frames(drawn)),
        "episodes.png": figures.plot_episodes(evaluation.by_episode),
    }
    if codes := evaluation.codes:
        images["codes.png"] = figures.plot_code_use(codes.use)
        images |= draw_code_map(codes)
        images["control.png"] = figures.plot_control(metrics)
        images["counterfactuals.png"] = png_bytes(counterfactual_sheet(codes))
        if codes.events:
            images |= {gallery_file(codes, code): gallery(drawn, codes, code) for code in shown_codes(codes.events)}
        if codes.probe:
            images["confusion.png"] = figures.plot_confusion(codes.probe, codes.action_names)
            images["labels.png"] = figures.plot_label_efficiency(metrics)
    if history:
        images["training.png"] = figures.plot_training(history)
    return images


def examples(drawn: Drawn, rows: np.ndarray) -> list[Example]:
    """Some of the pairs, for pictures."""
    pairs = drawn.pairs[rows]
    current, following = (to_float(frames).numpy() for frames in (pairs.current, pairs.next))
    predictions = drawn.predictions[rows].astype(np.float32) / 255
    return [
        Example(current[i], following[i], predictions[i], drawn.pairs.where(int(row))) for i, row in enumerate(rows)
    ]


def extremes(drawn: Drawn) -> np.ndarray:
    """The best, median and worst pairs by the error on changed pixels, of those that changed."""
    errors = drawn.errors[""]
    changed = np.flatnonzero(errors.changed)
    order = changed[np.argsort(errors.changed_mse()[changed], kind="stable")]
    middle = max((len(order) - EXTREMES["median"]) // 2, 0)
    chosen = {
        "best": order[: EXTREMES["best"]],
        "median": order[middle : middle + EXTREMES["median"]],
        "worst": np.flip(order)[: EXTREMES["worst"]].copy(),
    }
    named = [
        Example(example.current, example.next, example.prediction, f"{kind}: {example.where}")
        for kind, rows in chosen.items()
        for example in examples(drawn, rows)
    ]
    return example_sheet(named)


def movie_frames(drawn: Drawn) -> list[np.ndarray]:
    """Real, predicted and difference, step by step, from the first judged episode."""
    count = min(MOVIE_STEPS, len(drawn.pairs.episodes[0].clip_starts()) or len(drawn.pairs))
    return [
        sheet(
            [[to_rgb(e.next), to_rgb(e.prediction), difference_image(e.prediction, e.next)]],
            [e.where],
            ["true", "predicted", "difference"],
        )
        for e in examples(drawn, np.arange(count))
    ]


def draw_code_map(codes: CodeJudgement) -> dict[str, bytes]:
    """t-SNE of the code vectors, where there are enough."""
    places = code_map(codes.vectors)
    if places is None:
        return {}
    usual = codes.events.judged.usual_event() if codes.events else None
    names = codes.events.names if codes.events else ()
    return {"code_map.png": figures.plot_code_map(places, codes.use.totals, usual, names)}


def shown_codes(events: CodeEvents) -> list[int]:
    """The codes that have a gallery: the top two of each event, if the judged pairs have them."""
    chosen = dict.fromkeys(code for found in tables.event_codes(events) for code in found.codes[:2])
    return [code for code in chosen if events.judged.code_counts[code]]


def gallery_file(codes: CodeJudgement, code: int) -> str:
    """The file of :func:`gallery`."""
    return f"code_{codes.names[code].replace(':', '_')}.png"


def gallery(drawn: Drawn, codes: CodeJudgement, code: int) -> bytes:
    """Transitions that have a code, at even distances, with the places of the grid where it stands outlined."""
    having = np.flatnonzero((codes.codes == code).any((1, 2)))
    rows = having[evenly_spaced(len(having), GALLERY)]
    chosen = examples(drawn, rows)
    marked = [to_rgb(example.next) for example in chosen]
    marked = [
        outline(picture, codes, np.argwhere(codes.codes[row] == code).tolist())
        for picture, row in zip(marked, rows, strict=True)
    ]
    cells = [[to_rgb(e.current) for e in chosen], marked, [difference_image(e.next, e.current) for e in chosen]]
    return png_bytes(sheet(cells, ["current", "true next", "what changed"], [e.where for e in chosen]))


def counterfactual_sheet(codes: CodeJudgement) -> np.ndarray:
    """Frames under their own codes and with one code replaced, each picture with what is changed beside it."""
    columns = []
    for each in codes.counterfactuals:
        pictures = [to_rgb(each.current), to_rgb(each.drawn)]
        changes = [difference_image(each.current, each.current), difference_image(each.drawn, each.current)]
        for picture, place in zip(each.alternatives, each.places, strict=True):
            pictures.append(outline(to_rgb(picture), codes, [place]))
            changes.append(difference_image(picture, each.drawn))
        columns += [pictures, changes]
    stands_for = meanings(codes.events) if codes.events else {}
    names = [f"{codes.names[code]} {stands_for.get(code, 'frequent')}" for code in codes.counterfactuals[0].codes]
    where = [name for each in codes.counterfactuals for name in (each.where, "change")]
    return sheet(list(zip(*columns, strict=True)), ["current", "its own codes", *names], where)


def meanings(events: CodeEvents) -> dict[int, str]:
    """The event that each top code was chosen for, with a question mark where it does not hold."""
    return {
        code: found.name + "?" * (code not in found.holds)
        for found in reversed(tables.event_codes(events))
        for code in found.codes
    }


def outline(picture: np.ndarray, codes: CodeJudgement, where: Sequence[Sequence[int]]) -> np.ndarray:
    """The picture with places of codes (row, column) outlined; without, if every place sees all of it."""
    if codes.centres is None:
        return picture
    centres = np.array([codes.centres[row, column // codes.use.per_place] for row, column in where])
    return outlined(picture, centres, codes.centres.shape[:2])


# Text


def render(checkpoint: Checkpoint, evaluation: Evaluation, images: Mapping[str, bytes]) -> str:
    """The HTML text; ``images`` are the files by name."""
    metrics, codes = evaluation.metrics, evaluation.codes
    page = Page(images)
    page.heading("In a minute", "verdict")
    page.add(
        "<ul class=verdicts>"
        + "".join(f"<li class={verdict.level}>{html.escape(verdict.sentence)}</li>" for verdict in evaluation.verdicts)
        + "</ul>"
    )
    page.table(("measure", "model", "beside"), tables.summary_rows(metrics))
    for sentence in evaluation.left_out:
        page.add(f"<p class=note>Left out: {html.escape(sentence)}.</p>")

    page.heading("What it draws", "drawing")
    page.text(
        "Pixels are on a scale of 0 to 1. Changed pixels are those that differ between the two frames; the rest can be "
        "had by copying. The mean frame is that of the training episodes."
    )
    page.table(("", "model", "copying", "mean frame"), tables.reconstruction_rows(evaluation.splits[evaluation.split]))
    page.text(
        "Beside the other splits, of which a sample was drawn. A gap from training to test is what was learnt by heart."
    )
    page.table(("", *evaluation.splits), tables.split_rows(evaluation.splits))
    page.picture("episodes.png", "PSNR of each judged episode, worst first")
    page.text(
        "Pairs at even distances over the judged episodes, not chosen by quality. The difference is white where the "
        "prediction is right, red where it is too bright, blue where it is too dark."
    )
    page.sheet("pairs.png", "current frame, true next frame, predicted next frame, difference")
    page.text("The best, the middle and the worst by their error on changed pixels.")
    page.sheet("extremes.png", "best, median and worst pairs")
    page.text("An episode step by step; each prediction starts from the true frame before it.")
    page.sheet("movie.webp", "moving picture: true next frame, predicted, difference")

    if any(name.startswith("elements/") for name in metrics):
        page.heading("Ball, paddle, bricks, digits", "elements")
        page.text(
            "Found in the drawn frames and held against the console's memory. Distances are in pixels of the recorded "
            "frame. What does not change is had by copying; so look at the rows of what changed, and at the ball."
        )
        page.table(("", "model", "copying"), tables.element_rows(metrics))
    if codes:
        add_codes(page, codes, metrics)
    if "training.png" in images:
        page.heading("Training", "training")
        page.picture("training.png", "PSNR on training batches and on the validation episodes, beside copying")
    page.heading("Configuration", "configuration")
    settings = html.escape(to_yaml(checkpoint.config))
    page.add(f"<details><summary>all settings of the run</summary><pre>{settings}</pre></details>")
    judged = html.escape(", ".join(evaluation.episodes))
    kind = "training" if evaluation.split == "train" and "test" in evaluation.splits else "held-out"
    intro = (
        f"<p>Checkpoint <code>{html.escape(checkpoint.path.name)}</code> (SHA-256 {checkpoint.digest}…, step "
        f"{checkpoint.step}), judged on {len(evaluation.drawn.pairs):,} pairs of {len(evaluation.episodes)} {kind} "
        f"episode(s): {judged}.</p>"
    )
    return html_page("Latent actions: report", intro, page)


def add_codes(page: Page, codes: CodeJudgement, metrics: Mapping[str, float]) -> None:
    """The sections on the codes."""
    page.heading("Codebook", "codes")
    height, width, number = codes.use.counts.shape
    nominal, by_use = (f"{metrics[f'codebook/bits_{kind}']:.0f}" for kind in ("nominal", "empirical"))
    page.text(
        f"Each transition has a grid of {height} x {width} codes out of {number // codes.use.per_place}: "
        f"{nominal} bits nominally, at most {by_use} by how the codes are used. The perplexity of a place is how many "
        "codes it uses, as if it used them evenly."
    )
    if codes.use.per_place > 1:
        page.text(
            f"The {codes.use.per_place} codes of a place stand side by side, and count as different ones: 2:17 is code "
            "17 where it is the second of its place."
        )
    page.picture("codes.png", "code use, and perplexity by place of the grid")
    if "code_map.png" in page.images:
        page.text("The code vectors, laid out by t-SNE: near codes mean similar things to the decoder.")
        page.picture("code_map.png", "t-SNE of the code vectors by use and by event")

    if codes.events:
        add_events(page, codes, codes.events, metrics)

    page.heading("Do the codes steer?", "control")
    page.text(
        "From true frames the decoder goes on by itself, its picture being the next current frame, under the codes of "
        "the true transitions, under those of other transitions, and under random ones."
    )
    page.picture("control.png", "PSNR of rollouts by their length")
    page.text(
        "The same frames with one code replaced by each of the top codes, the other places keeping theirs. Of the "
        "places where a code stands often it is put where it changes this picture most; that place is outlined. Beside "
        "each picture is the change: by its own codes from the current frame, by the others from its own codes. "
        "In a grid of many places, one of them may do little by itself."
    )
    page.sheet("counterfactuals.png", "frames under other codes, and what these change")

    if codes.probe:
        page.heading("Are they actions?", "actions")
        page.text(
            "Probes are fitted on training episodes and asked on the judged ones. The oracle reads the console's "
            "memory; it is not perfect, since sticky actions hide what was pressed. Balanced accuracy is the mean of "
            "the actions' recalls."
        )
        page.table(("the action read from", "accuracy", "balanced accuracy"), tables.probe_rows(metrics))
        page.text(
            f"Normalised mutual information of the action and the code at the place that tells most about it: "
            f"{metrics['probe/nmi']:.3f}; adjusted for chance: {metrics['probe/ami']:.3f}."
        )
        page.picture("confusion.png", "true actions against those read from the codes")
        page.text("How many labelled transitions the linear probe needs (mean of five random choices):")
        page.picture("labels.png", "accuracy against the number of labelled transitions")


def add_events(page: Page, codes: CodeJudgement, events: CodeEvents, metrics: Mapping[str, float]) -> None:
    """The section on what the codes stand for."""
    page.heading("What the codes stand for", "events")
    chosen = "on training episodes" if events.chosen_on is not events.judged else "on the same episodes"
    page.text(
        f"Events are found in the recorded pictures alone. Top codes are chosen {chosen} by mutual information; "
        "the figures are those of the judged episodes. The lift says how many times as frequent the event is where "
        "the code stands anywhere in the grid; p, how likely so many with both are by chance. A code holds if p is "
        f"below {tables.CHANCE}."
    )
    page.add("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in tables.event_sentences(events)) + "</ul>")
    page.table(
        ("event", "times", "code", "transitions with it", "with both", "lift", "p", "NMI"),
        tables.event_rows(events),
    )
    page.text(
        "Transitions of the top codes, at even distances. The outline is about the centre of what the code's place "
        "in the grid sees; it sees further than that. A code with a question mark does not hold."
    )
    stands_for = meanings(events)
    for place, code in enumerate(shown_codes(events)):
        opened = "" if place else " open"
        page.add(f"<details{opened}><summary>code {codes.names[code]}: {stands_for[code]}</summary>")
        page.sheet(gallery_file(codes, code), f"transitions with code {codes.names[code]}")
        page.add("</details>")

    if rows := tables.reading_rows(metrics, events.names):
        page.text(
            "What a linear classifier, fitted on training episodes, reads from all codes of a grid together. The "
            "average precision of guessing is the share of the transitions in which the event happens."
        )
        page.table(("event", "of transitions", "average precision", "precision", "recall"), rows)
