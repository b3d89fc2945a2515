"""What the codes stand for: which codes go with which events of the game."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lapa.data.splits import evenly_spaced
from lapa.data.store import StoredEpisode
from lapa.evaluation.association import Association, associate
from lapa.evaluation.evaluator import Evaluator
from lapa.evaluation.grid import CodeGrids, code_grids, coder_of, told_apart
from lapa.evaluation.study import Study
from lapa.games.game import joined_states, unknown_game
from lapa.report.page import Page
from lapa.report.pictures import difference_image, png_bytes, sheet, to_rgb
from lapa.report.tables import Row, nan_free

TOP_CODES = 3
"""Codes that are named for each event."""

CHANCE = 0.01
"""A code holds if chance alone would give it and its event together this often with a probability below this."""

GALLERY = 6
"""Transitions that are shown of a code."""

READ_FRAMES = 512
"""Frames that are read at once."""


@dataclasses.dataclass(frozen=True)
class CodeEvents:
    """Codes against events.

    Attributes:
        names: the events.
        code_names: of the n K codes, as :meth:`lapa.contracts.Quantizer.distinct` numbers them.
        happens: (P, E) bool, on the judged transitions.
        chosen_on: on training episodes, from which top codes are chosen; the same as ``judged`` if there are none.
        judged: on the judged transitions, from which their figures come.
    """

    names: Sequence[str]
    code_names: Sequence[str]
    happens: np.ndarray
    chosen_on: Association
    judged: Association


def code_events(study: Study) -> CodeEvents | None:
    """Codes against events, where both are known; ask for them by :meth:`Study.shared`."""
    if study.game is None or study.without_transition_codes():
        return None
    study.notify("finding events")
    grids, coder = study.shared(code_grids), coder_of(study)
    number = coder.quantizer.num_distinct
    happens = events_of(study, study.episodes)
    judged = chosen_on = associate(grids.codes, happens, number)
    seen = study.shared(fitting_events)
    if seen is not None and study.fitting_codes is not None:
        chosen_on = associate(told_apart(coder, study.fitting_codes), seen, number)
    return CodeEvents(study.game.event_names, grids.names, happens, chosen_on, judged)


def fitting_events(study: Study) -> np.ndarray | None:
    """(Q, E) bool, the events of the training episodes that probes are fitted on, where they are known."""
    if study.game is None or study.fitting is None:
        return None
    return events_of(study, study.fitting.episodes)


def events_of(study: Study, episodes: Sequence[StoredEpisode]) -> np.ndarray:
    """(P, E) bool, which events happen in the last transition of each clip, found in the pictures alone."""
    game, store = study.game, study.store
    assert game is not None
    found = []
    for episode in episodes:
        firsts = range(episode.start, episode.stop, READ_FRAMES)
        parts = [game.read(store.frames(range(first, min(first + READ_FRAMES, episode.stop)))) for first in firsts]
        happens = game.events(joined_states(parts), episode.numbers)
        found.append(happens[study.pair_starts(episode) - episode.start])
    return np.concatenate(found)


class EventsEvaluator(Evaluator):
    """Codes against events; it has tables and pictures, and no metrics."""

    group = "events"

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs codes of transitions and a known game."""
        reason = study.without_transition_codes() or (None if study.game else unknown_game())
        return f"events: {reason}" if reason else None

    @property
    def events(self) -> CodeEvents:
        """What was found."""
        found = self.study.shared(code_events)
        assert found is not None
        return found

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}

    def details(self) -> dict[str, Any]:
        """Counts, lift and normalised mutual information of each code and event."""
        events = self.events
        return {
            "events": {
                "names": list(events.names),
                "counts": events.judged.event_counts.tolist(),
                "codes": {each.name: [events.code_names[c] for c in each.codes] for each in event_codes(events)},
                "code_counts": events.judged.code_counts.tolist(),
                "code_by_event": events.judged.counts.astype(int).tolist(),
                "lift": nan_free(events.judged.lift()),
                "nmi": nan_free(events.judged.nmi()),
            }
        }

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """A gallery of each top code."""
        grids = self.study.shared(code_grids)
        return {gallery_file(grids, code): self._gallery(grids, code) for code in shown_codes(self.events)}

    def _gallery(self, grids: CodeGrids, code: int) -> bytes:
        """Transitions that have a code, at even distances, with the places of the grid where it stands outlined."""
        having = np.flatnonzero((grids.codes == code).any((1, 2)))
        rows = having[evenly_spaced(len(having), GALLERY)]
        clips = self.study.clips[rows]
        current, following = (frames.numpy().astype(np.float32) / 255 for frames in (clips.current, clips.next))
        marked = [
            grids.outline(to_rgb(frame), np.argwhere(grids.codes[row] == code).tolist())
            for frame, row in zip(following, rows, strict=True)
        ]
        changes = [difference_image(*both) for both in zip(following, current, strict=True)]
        cells = [[to_rgb(frame) for frame in current], marked, changes]
        where = [self.study.clips.where(int(row)) for row in rows]
        return png_bytes(sheet(cells, ["current", "true next", "what changed"], where))

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """Sentences, the table of top codes, and their galleries."""
        events, names = self.events, self.events.code_names
        page.heading("What the codes stand for", "events")
        chosen = "on training episodes" if events.chosen_on is not events.judged else "on the same episodes"
        page.text(
            f"Events are found in the recorded pictures alone. Top codes are chosen {chosen} by mutual information; "
            "the figures are those of the judged episodes. The lift says how many times as frequent the event is where "
            "the code stands anywhere in the grid; p is the probability that chance alone gives this number of "
            f"transitions with both, or more. A code holds if p is below {CHANCE}."
        )
        page.add("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in event_sentences(events)) + "</ul>")
        header = ("event", "times", "code", "transitions with it", "with both", "lift", "p", "NMI")
        page.table(header, event_rows(events))
        page.text(
            "Transitions of the top codes, at even distances. The outline is about the centre of what the code's place "
            "in the grid sees; it sees further than that. A code with a question mark does not hold."
        )
        stands_for = meanings(events)
        grids = self.study.shared(code_grids)
        for place, code in enumerate(shown_codes(events)):
            opened = "" if place else " open"
            title = html.escape(f"code {names[code]}: {stands_for[code]}")
            page.add(f"<details{opened}><summary>{title}</summary>")
            page.sheet(gallery_file(grids, code), f"transitions with code {names[code]}")
            page.add("</details>")


@dataclasses.dataclass(frozen=True)
class EventCodes:
    """The codes that tell an event.

    Attributes:
        event: its number.
        name: its name.
        count: judged transitions in which it happens.
        codes: those that tell most about it where codes are chosen, best first.
        holds: of them, those that go with it on the judged transitions too.
    """

    event: int
    name: str
    count: int
    codes: list[int]
    holds: list[int]


def event_codes(events: CodeEvents) -> list[EventCodes]:
    """For each event that happens, its top codes. The judged episodes have no say in the choice."""
    found, p = [], events.judged.p_values()
    for event, name in enumerate(events.names):
        if count := int(events.judged.event_counts[event]):
            codes = events.chosen_on.top_codes(event, TOP_CODES)
            holds = [code for code in codes if p[code, event] < CHANCE]
            found.append(EventCodes(event, name, count, codes, holds))
    return found


def event_rows(events: CodeEvents) -> list[Row]:
    """Event, times, code, transitions with the code, with both, lift, p, NMI: one row for each top code."""
    judged = events.judged
    lift, p, nmi = judged.lift(), judged.p_values(), judged.nmi()
    rows: list[Row] = []
    for found in event_codes(events):
        first = (found.name, f"{found.count}")
        if not found.codes:
            rows.append((*first, "none", "", "", "", "", ""))
        for code in found.codes:
            at = code, found.event
            counts = (events.code_names[code], f"{judged.code_counts[code]}", f"{judged.counts[at]:.0f}")
            times = f"{lift[at]:.1f}" if judged.code_counts[code] else "-"
            chance = f"{p[at]:.3f}" if p[at] >= 0.001 else "<0.001"
            rows.append((*first, *counts, times, chance, f"{nmi[at]:.3f}"))
            first = ("", "")
    return rows


def event_sentences(events: CodeEvents) -> list[str]:
    """What the codes stand for, such as "codes 17 and 203: paddle moves left (lift 6.1)"."""
    sentences = []
    lift = events.judged.lift()
    for found in event_codes(events):
        if not found.holds:
            fails = f"do{'es' * (len(found.codes) == 1)} not hold"
            chosen = numbered([events.code_names[code] for code in found.codes]) if found.codes else ""
            sentences.append(f"no code: {found.name}" + (f" ({chosen} {fails})" if found.codes else ""))
            continue
        lifts = lift[found.holds, found.event]
        low, high = f"{lifts.min():.1f}", f"{lifts.max():.1f}"
        between = low if low == high else f"{low} to {high}"
        holding = numbered([events.code_names[code] for code in found.holds])
        sentences.append(f"{holding}: {found.name} (lift {between})")
    return sentences


def numbered(names: Sequence[str]) -> str:
    """Such as "codes 1, 2 and 3"."""
    *others, last = names
    return f"codes {', '.join(others)} and {last}" if others else f"code {last}"


def shown_codes(events: CodeEvents) -> list[int]:
    """The codes that have a gallery: the top two of each event, if the judged transitions have them."""
    chosen = dict.fromkeys(code for found in event_codes(events) for code in found.codes[:2])
    return [code for code in chosen if events.judged.code_counts[code]]


def gallery_file(grids: CodeGrids, code: int) -> str:
    """The file with the gallery of a code."""
    return f"code_{grids.names[code].replace(':', '_')}.png"


def meanings(events: CodeEvents) -> dict[int, str]:
    """The event that each top code was chosen for, with a question mark where it does not hold."""
    return {
        code: found.name + "?" * (code not in found.holds)
        for found in reversed(event_codes(events))
        for code in found.codes
    }
