"""What is known of a game: which recordings are of it, what is on its screen, what happens in it.

A :class:`Game` is found by its name in the entry-point group ``lapa.games``. The evaluation asks whichever game says
that the recorded episodes are its own; without one it leaves out what only a game can tell.

States are dicts of arrays over N frames. Their names and shapes are the game's own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from lapa.data.store import StoredEpisode
from lapa.registry import Registry

State = dict[str, np.ndarray]
"""What there is on N screens: (N, ...) each."""


class Measure(NamedTuple):
    """How a metric of what is on the screen is shown.

    Attributes:
        label: in the table of the report's section.
        metric: its name; ``{}`` stands where the metric of copying the current frame has ``copy_``.
        form: the figure as text.
        summary: its label in the summary of a run; none if it is not in there.
        column: its label in a comparison of runs; none if it is not in there.
        rebuilt: its label in both, of systems that draw the very frame that they see; none if it is not in there. For
            these, what has just changed is nothing special.
    """

    label: str
    metric: str
    form: Callable[[float], str]
    summary: str = ""
    column: str = ""
    rebuilt: str = ""


class Remark(NamedTuple):
    """A sentence on the metrics, and whether it speaks for the model."""

    level: Literal["good", "weak", "bad"]
    sentence: str


class Aspect(NamedTuple):
    """One way to sort screens into parts of the game.

    Attributes:
        title: what is looked at, such as ``"bricks standing"``.
        parts: names of the K parts; a recording of the whole game has screens of each.
        find: a :data:`State` of N screens -> (N,) int64 indices of ``parts``, -1 where it cannot be told.
        starts: for each part, a start after which it is soon seen; nothing where none is known.
    """

    title: str
    parts: tuple[str, ...]
    find: Callable[[State], np.ndarray]
    starts: tuple[str, ...] = ()

    def phrase(self, part: int) -> str:
        """A part in words, such as ``"1 to 18 bricks standing"``."""
        return f"{self.parts[part]} {self.title}"


class Start(NamedTuple):
    """A named moment of the game at which an episode can begin.

    Attributes:
        meaning: in words.
        is_reached: a :data:`State` of N screens -> (N,) bool, whether play has come there. It may ask for what a
            picture does not tell: the state is that of the RAM.
        look_every: steps between two looks at the RAM, which cost more than a step; few for what passes quickly.
    """

    meaning: str
    is_reached: Callable[[State], np.ndarray]
    look_every: int = 8


class Game(ABC):
    """A game that the evaluation knows. Subclasses take no arguments.

    Attributes:
        title: the recordings it knows, such as ``"Breakout at full size"``.
        elements: what is on its screen, such as ``"ball and paddle"``.
        event_names: the E events that it finds in recorded pictures.
        action_classes: the A actions that can be told apart on the screen.
        max_downsample: beyond this factor the elements are too small to be found in predicted frames.
        measures: how the metrics of :meth:`compare` are shown.
        aspects: what a recording should cover. The first one says how far the game has come: figures are given for
            each of its parts.
        starts: named moments at which an episode can begin, in the order in which play reaches them.
        mix: the starts of a recording's episodes, in turn, so that together they cover the game.
        lives: address of the lives in RAM, and their number in a new game; None if they cannot be given back.
    """

    title: ClassVar[str]
    elements: ClassVar[str]
    event_names: ClassVar[tuple[str, ...]]
    action_classes: ClassVar[tuple[str, ...]]
    max_downsample: ClassVar[int] = 1
    measures: ClassVar[tuple[Measure, ...]] = ()
    aspects: ClassVar[tuple[Aspect, ...]] = ()
    starts: ClassVar[Mapping[str, Start]] = MappingProxyType({})
    mix: ClassVar[tuple[str, ...]] = ()
    lives: ClassVar[tuple[int, int] | None] = None

    @abstractmethod
    def matches(self, meta: Mapping[str, Any], frame_size: tuple[int, int]) -> bool:
        """Whether an episode is of this game.

        Args:
            meta: what the recording says of it.
            frame_size: (H, W) of its frames as recorded.
        """

    @abstractmethod
    def class_of_action(self, actions: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
        """(N,) actions of the controller -> (N,) int64 indices of :attr:`action_classes`."""

    @abstractmethod
    def state(self, ram: np.ndarray) -> State:
        """What (N, bytes) uint8 of RAM say of N screens."""

    @abstractmethod
    def read(self, frames: np.ndarray) -> State:
        """The same, from N recorded pictures (N, H, W, 3) uint8 RGB."""

    @abstractmethod
    def find(self, frames: np.ndarray, downsample: int) -> State:
        """What can be found of it in N predicted pictures.

        Args:
            frames: (N, C, H', W') in [0, 1].
            downsample: k x k recorded pixels are one of these.
        """

    def shown(self, state: State, found: State) -> State:
        """What the RAM says of N recorded frames, as these show it; by default, what it says.

        The RAM can be ahead of the screen: a game may count a point in one frame and draw it in the next.

        Args:
            state: of the frames, by :meth:`state`.
            found: in the frames, by :meth:`find`.
        """
        return state

    @abstractmethod
    def observation(self, state: State) -> np.ndarray:
        """(N, O) float, what one frame by itself says of the next action."""

    @abstractmethod
    def motion(self, before: State, after: State) -> np.ndarray:
        """(N, S) float, what two frames say of the action between them."""

    @abstractmethod
    def events(self, states: State, numbers: np.ndarray) -> np.ndarray:
        """(N - 1, E) bool, what happens between each of an episode's N frames and the one after.

        Args:
            states: of all its frames, by :meth:`read`.
            numbers: (N,) of the frames; nothing happens where they have a gap.
        """

    @abstractmethod
    def compare(self, predicted: State, copied: State, before: State, truth: State) -> dict[str, float]:
        """How right the predicted pictures are, by name of metric.

        Args:
            predicted: found in N predicted frames, by :meth:`find`.
            copied: found in the current frames, which copying would give.
            before: what the RAM says of the current frames, by :meth:`state` and :meth:`shown`.
            truth: the same of the next frames.
        """

    def remarks(self, metrics: Mapping[str, float]) -> Iterator[Remark]:
        """What the metrics of :meth:`compare` come to; those that are missing are passed over."""
        yield from ()


games: Registry[Game] = Registry("game", Game, sections=())


def known_games() -> list[Game]:
    """All registered games, by name.

    Raises:
        RegistryError: one cannot be loaded.
    """
    return [games.get(name)() for name in games.names()]


def find_game(episodes: Sequence[StoredEpisode], frame_size: tuple[int, int]) -> Game | None:
    """The first game that knows all of the episodes, or None.

    Raises:
        RegistryError: a game cannot be loaded.
    """
    for game in known_games():
        if all(game.matches(episode.tracks.meta, frame_size) for episode in episodes):
            return game
    return None


def unknown_game() -> str:
    """Why nothing is known of the recorded game."""
    titles = " or ".join(game.title for game in known_games())
    return f"the recording is not {titles}" if titles else "no game is known"


def joined_states(parts: Sequence[State]) -> State:
    """The states of several batches of frames as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
