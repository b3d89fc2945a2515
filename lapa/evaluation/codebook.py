"""Whether the codebook is used: how many codes, how evenly, and how many bits a grid of codes carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import zstandard

from lapa.contracts import Coder
from lapa.evaluation.evaluator import Column, Evaluator, Verdict
from lapa.evaluation.events import code_events
from lapa.evaluation.grid import CodeGrids, code_grids, coder_of, number_of_codes
from lapa.evaluation.nearest import nearest_sheet
from lapa.evaluation.study import Study
from lapa.metrics.codes import CodeUse
from lapa.report import figures
from lapa.report.page import Page
from lapa.report.pictures import png_bytes
from lapa.report.tables import Row

NOMINAL_BYTES, PACKED_BYTES, STORED_BYTES = (f"codebook/bytes_per_frame{kind}" for kind in ("", "_zstd", "_stored"))
"""Of codes of single frames alone."""

PACKING_LEVEL = 12

READABLE = 12
"""A grid with more rows or columns than this is shown without figures in its places."""


class CodebookEvaluator(Evaluator):
    """Use of the codes on the judged clips."""

    group = "codebook"

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs codes."""
        reason = study.without_codes()
        return f"codebook: {reason}" if reason else None

    @property
    def _grids(self) -> CodeGrids:
        return self.study.shared(code_grids)

    def metrics(self) -> dict[str, float]:
        """Those of :meth:`lapa.metrics.codes.CodeUse.metrics`; of codes of single frames, the bytes too."""
        return self._grids.use.metrics() | (frame_bytes(self.study) if self._is_of_frames else {})

    @property
    def _is_of_frames(self) -> bool:
        return coder_of(self.study).track == "tokens"

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """Codes used, and bits."""
        if "codebook/codes_used" not in metrics:
            return []
        used, number, perplexity, bits, nominal = (
            metrics[f"codebook/{name}"]
            for name in ("codes_used", "num_codes", "perplexity", "bits_empirical", "bits_nominal")
        )
        rows: list[Row] = [
            ("codes used", f"{used:.0f} of {number:.0f}", f"perplexity {perplexity:.1f}"),
            (f"bits per {owner_of(metrics)}", f"{bits:.0f}", f"at most, of {nominal:.0f} nominal"),
        ]
        if NOMINAL_BYTES in metrics:
            nominal, packed, stored = (metrics[name] for name in (NOMINAL_BYTES, PACKED_BYTES, STORED_BYTES))
            against = f"zstd of all frames {packed:.0f}, the recording's store {stored:,.0f}"
            rows.append(("bytes per frame", f"{nominal:.0f}", against))
        return rows

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Whether the codebook has collapsed."""
        if "codebook/codes_used" not in metrics:
            return
        used, number, perplexity = (metrics[f"codebook/{name}"] for name in ("codes_used", "num_codes", "perplexity"))
        shares = f"{used:.0f} of {number:.0f} codes"
        if used <= 1:
            owner = owner_of(metrics)
            yield Verdict("bad", f"The codebook has collapsed: every place of every {owner} has the same code.")
        elif perplexity < 1.5 or used < 0.25 * number:
            yield Verdict("weak", f"The codebook is poorly used: {shares}, perplexity {perplexity:.1f}.")
        else:
            yield Verdict("good", f"The codebook lives: {shares} are used, perplexity {perplexity:.1f}.")

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Codes used, perplexity, bits, bytes."""
        return (
            Column("codes used", "codebook/codes_used", "{:.0f}".format),
            Column("perplexity", "codebook/perplexity", "{:.1f}".format),
            Column("bits", "codebook/bits_empirical", "{:.1f}".format),
            Column("bytes", NOMINAL_BYTES, "{:.0f}".format),
            Column("bytes after zstd", PACKED_BYTES, "{:.0f}".format),
        )

    def details(self) -> dict[str, Any]:
        """How often each code was used."""
        return {"code_counts": self._grids.use.totals.tolist()}

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """Code use, t-SNE of the code vectors, where there are enough, and patches of frames that have a code."""
        use = self._grids.use
        images = {"codes.png": plot_code_use(use)}
        places = code_map(code_vectors(coder_of(self.study)))
        if places is not None:
            events = self.study.shared(code_events)
            usual, names = (events.judged.usual_event(), events.names) if events else (None, ())
            images["code_map.png"] = plot_code_map(places, use.totals, usual, names)
        if self._is_of_frames and (patches := nearest_sheet(self.study)) is not None:
            images["codes_nearest.png"] = png_bytes(patches)
        return images

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """Bits and use."""
        use = self._grids.use
        page.heading("Codebook", "codes")
        height, width, number = use.counts.shape
        nominal, by_use = (f"{metrics[f'codebook/bits_{kind}']:.0f}" for kind in ("nominal", "empirical"))
        owner = owner_of(metrics)
        page.text(
            f"Each {owner} has a grid of {height} x {width} codes out of {number // use.per_place}: "
            f"{nominal} bits nominally, at most {by_use} by how the codes are used. The perplexity of a place is the "
            "number of codes that it would use if it used each of them equally often."
        )
        if use.per_place > 1:
            page.text(
                f"The {use.per_place} codes of a place stand side by side, and count as different ones: 2:17 is code "
                "17 where it is the second of its place."
            )
        if NOMINAL_BYTES in metrics:
            flat, packed, stored = (metrics[name] for name in (NOMINAL_BYTES, PACKED_BYTES, STORED_BYTES))
            page.text(
                f"In bytes, a frame's codes take {flat:.0f} nominally, and {packed:.0f} after zstd of those of all "
                f"judged frames together, one after the other, so that it finds what frames have in common. In the "
                f"packed store, where each frame is a zstd block of its own, at full size and without loss, a frame "
                f"takes {stored:,.0f}."
            )
        page.picture("codes.png", "code use, and perplexity by place of the grid")
        if "code_map.png" in page.images:
            page.text("The code vectors, laid out by t-SNE: near codes mean similar things to the decoder.")
            page.picture("code_map.png", "t-SNE of the code vectors by use and by event")
        if "codes_nearest.png" in page.images:
            page.text(
                "What codes look like: above the most used ones, below the rarest, each with the number of times that "
                "it was used. Shown are places that have the code (a line goes around them), with their surroundings: "
                "those first whose encodings lie nearest to the code's vector, each from another frame, and from "
                "another episode if there is one."
            )
            page.sheet("codes_nearest.png", "patches of frames by code")


def owner_of(metrics: Mapping[str, float]) -> str:
    """What has a grid of codes: a frame or a transition."""
    return "frame" if NOMINAL_BYTES in metrics else "transition"


def frame_bytes(study: Study) -> dict[str, float]:
    """Bytes of a frame's codes: nominal, and after zstd of all judged frames; and those of a frame in the store."""
    coder = coder_of(study)
    assert study.codes is not None
    kind = next(kind for kind in (np.uint8, np.uint16, np.int32) if number_of_codes(coder) - 1 <= np.iinfo(kind).max)
    packed = zstandard.ZstdCompressor(level=PACKING_LEVEL).compress(study.codes.astype(kind).tobytes())
    seen = study.clips.starts + study.spec.frames - 1
    stored = sum(len(study.store.block(index)) for index in seen.tolist())
    found = {NOMINAL_BYTES: coder.bits / 8, PACKED_BYTES: len(packed) / len(seen), STORED_BYTES: stored / len(seen)}
    return {name.removeprefix(f"{CodebookEvaluator.group}/"): value for name, value in found.items()}


def code_vectors(coder: Coder) -> np.ndarray:
    """(n K, D), the latent of each code; where a place has several, added to the first ones of the others."""
    device = next(coder.parameters()).device
    num_codes, per_place = number_of_codes(coder), coder.quantizer.codes_per_place
    number = torch.arange(num_codes * per_place, device=device)
    codes = torch.zeros(len(number), 1, per_place, dtype=torch.int64, device=device)
    codes[number, 0, number // num_codes] = number % num_codes
    with torch.inference_mode():
        latent = coder.quantizer.codes_to_latent(codes)
    return latent.flatten(1).float().cpu().numpy()


def code_map(vectors: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """t-SNE (van der Maaten and Hinton 2008) of K code vectors: (K, D) -> (K, 2); None for fewer than four codes."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return None
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    return places


def plot_code_use(use: CodeUse) -> bytes:
    """Bars of code use, sorted, and the perplexity of each place of the grid."""
    figure, (bars, places) = figures.new_axes(2, width_ratios=(2, 1))
    counts = np.sort(use.totals)[::-1]
    bars.bar(np.arange(len(counts)), counts, width=1.0, color=figures.BLUE)
    bars.set_yscale("symlog", linthresh=1)
    bars.set_xlabel("code, most frequent first")
    bars.set_ylabel("times used")
    perplexities = use.perplexities()
    image = places.imshow(perplexities, cmap="Blues", vmin=1)
    for (row, column), value in np.ndenumerate(perplexities) if max(perplexities.shape) <= READABLE else ():
        dark = value > 0.6 * perplexities.max()
        places.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="w" if dark else "k")
    places.set_title("perplexity by place", fontsize=10)
    places.set_xticks([])
    places.set_yticks([])
    figure.colorbar(image, ax=places)
    return figures.png(figure)


def plot_code_map(places: np.ndarray, counts: np.ndarray, usual: np.ndarray | None, names: Sequence[str]) -> bytes:
    """t-SNE of the code vectors (K, 2), coloured by use, and, if known, by each code's usual event."""
    figure, panels = figures.new_axes(1 if usual is None else 2, 5 if usual is None else 9, height=4.2, squeeze=False)
    by_use, *others = panels[0]
    shown = by_use.scatter(*places.T, c=np.log10(1 + counts), cmap="viridis", s=18)
    figure.colorbar(shown, ax=by_use, label="log10(1 + times used)")
    by_use.set_title("by use", fontsize=10)
    if usual is not None:
        (by_event,) = others
        by_event.set_title("by most likely event", fontsize=10)
        colours = figures.palette(len(names))
        for event in (-1, *range(len(names))):
            chosen = usual == event
            if chosen.any():
                label, colour = ("none", "#dddddd") if event < 0 else (names[event], colours[event])
                by_event.scatter(*places[chosen].T, color=colour, s=18, label=f"{label} ({chosen.sum()})")
        by_event.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for axes in panels[0]:
        axes.set_xticks([])
        axes.set_yticks([])
    return figures.png(figure)
