"""The live view: a game that is played and labelled, in the terminal, as a moving picture, on a local page."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.data.files import atomic_file, write_text
from lapa.errors import DataError
from lapa.inference.reading import CodeReader
from lapa.progress import notify, progress_bar
from lapa.report.pictures import movie as moving_picture
from lapa_envs.live.game import Game, find_reader
from lapa_envs.live.page import LivePage
from lapa_envs.live.picture import picture

MOVIE_STEPS = 600
"""A moving picture shows so many steps at most: they are held in memory."""


def watch(
    env: gym.Env[Any, Any],
    checkpoint: str | Path | None,
    *,
    reader: Path | None,
    policy: str,
    steps: int,
    seed: int,
    movie: Path | None,
    out: Path | None,
    port: int | None,
    fps: float,
) -> None:
    """Plays so many steps and shows them; what was played before Ctrl-C is written too.

    Args:
        env: it is closed at the end.
        checkpoint: file or name of a trained model; None takes the default one that comes with the package.
        reader: what reads its codes; None looks for it.
        policy: as :func:`lapa_envs.policies.make_policy` names it.
        steps: how many.
        seed: of the environment and the player.
        movie: WebP file to write, or None.
        out: file of JSON lines to write, or None.
        port: of the local page, or None for no page.
        fps: steps a second with a page.

    Raises:
        DataError: something does not fit.
    """
    game = Game(env, checkpoint, policy, seed, drawing=movie is not None or port is not None)
    game.reader = known_reader(game.digest, reader)
    page = LivePage(port) if port is not None else None
    if page:
        notify(f"showing it at {page.url} until Ctrl-C")
    records: list[dict[str, Any]] = []
    pictures: list[np.ndarray] = []
    started = time.monotonic()
    try:
        with progress_bar(total=steps, desc="label", unit="step") as bar:
            for moment in game.moments(steps):
                records.append(moment.to_json())
                if movie and len(pictures) < MOVIE_STEPS:
                    pictures.append(picture(moment))
                if page:
                    page.show(moment)
                    time.sleep(max(0.0, started + len(records) / fps - time.monotonic()))
                bar.update()
                bar.set_postfix_str(moment.status.partition(": ")[2], refresh=False)
        while page:
            time.sleep(1)  # the last step stays to be seen
    except KeyboardInterrupt:
        notify(f"stopped after {len(records)} steps")
    finally:
        if page:
            page.close()
        game.close()
        write(records, pictures, movie, out)


def known_reader(digest: str, named: Path | None) -> CodeReader | None:
    """What reads the checkpoint's codes; None, with a word why, where there is nothing and nothing was named."""
    try:
        return find_reader(digest, named)
    except DataError as error:
        if named is not None:
            raise
        notify(f"codes are shown without a meaning: {error}")
        return None


def write(records: list[dict[str, Any]], pictures: list[np.ndarray], movie: Path | None, out: Path | None) -> None:
    """Writes what was asked for."""
    if out:
        write_text(out, "".join(json.dumps(record) + "\n" for record in records))
        print(f"labels of {len(records)} steps: {out}")
    if movie and pictures:
        with atomic_file(movie) as file:
            file.write(moving_picture(pictures))
        print(f"moving picture of {len(pictures)} steps: {movie}")
