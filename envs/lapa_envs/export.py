"""The latent-action dataset in formats that others read: Minari, and plain ``npz`` files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.data.files import atomic_file, write_text
from lapa.data.store import StoredEpisode
from lapa.errors import DataError
from lapa.inference.extraction import LatentActionDataset
from lapa.progress import notify as print_line
from lapa.progress import progress_bar

DATASET_ID = "latent-actions-v0"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A run of T transitions without a gap: a whole episode, or what lies between its missing frames.

    Attributes:
        name: of the episode, with ``~<k>`` for its k-th segment after a gap.
        seed: of the episode, where it is known.
        frames: (T+1, H, W, 3) uint8 RGB.
        codes: (T, h, w) int64.
        actions: (T,) int64, the true ones, -1 where the recording does not tell.
        rewards: (T,) float32, 0 where it does not tell.
        terminated: (T,) bool.
        truncated: (T,) bool; a segment that does not terminate is truncated.
        lives: (T+1,) int64, -1 where it does not tell.
    """

    name: str
    seed: int | None
    frames: np.ndarray
    codes: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lives: np.ndarray


def segments(dataset: LatentActionDataset) -> Iterator[Segment]:
    """The segments of a dataset, in order."""
    for episode in dataset.store.episodes:
        whole = dataset.episode(episode.name)
        runs = np.split(np.arange(len(whole.starts)), np.flatnonzero(np.diff(whole.starts) > 1) + 1)
        for number, run in enumerate(run for run in runs if len(run)):
            yield segment(episode, number, whole.frames, whole.starts[run], whole.codes[run], whole.actions[run])


def segment(
    episode: StoredEpisode, number: int, frames: np.ndarray, starts: np.ndarray, codes: np.ndarray, actions: np.ndarray
) -> Segment:
    """One segment; ``starts`` (T,) count from the episode's first stored frame."""
    tracks, rows = episode.tracks, episode.step_rows(episode.start + starts)
    rewards, terminated, lives = tracks.rewards, tracks.terminated, tracks.lives
    ends = np.zeros(len(rows), dtype=bool) if terminated is None else terminated[rows]
    cut = np.zeros(len(rows), dtype=bool)
    cut[-1] = not ends[-1]
    seed = tracks.meta.get("seed")
    return Segment(
        name=episode.name if number == 0 else f"{episode.name}~{number}",
        seed=seed if isinstance(seed, int) else None,
        frames=frames[starts[0] : starts[-1] + 2],
        codes=codes.astype(np.int64),
        actions=actions,
        rewards=np.zeros(len(rows), np.float32) if rewards is None else rewards[rows].astype(np.float32),
        terminated=ends,
        truncated=cut,
        lives=np.full(len(rows) + 1, -1) if lives is None else lives[[*rows, rows[-1] + 1]],
    )


def to_npz(dataset: LatentActionDataset, out: Path, notify: Callable[[str], None] = print_line) -> list[Path]:
    """Writes one ``<out>/<episode>.npz`` for each segment, and ``<out>/dataset.json``.

    The arrays are ``observations`` (T+1, H, W, 3), ``latent_actions`` (T, h, w), ``actions``, ``rewards``,
    ``terminated``, ``truncated`` (T,) and ``lives`` (T+1,), as :class:`Segment` says.

    Raises:
        DataError: the folder holds something already.
    """
    with new_folder(out) as part:
        names = []
        for piece in with_progress(dataset):
            names.append(f"{piece.name}.npz")
            if Path(names[-1]).name != names[-1] or names[-1] in names[:-1]:
                raise DataError(f"{dataset.store.path}: episode name {piece.name!r} cannot be a file's; extract again")
            with atomic_file(part / names[-1]) as file:
                np.savez_compressed(
                    file,
                    observations=piece.frames,
                    latent_actions=piece.codes,
                    actions=piece.actions,
                    rewards=piece.rewards,
                    terminated=piece.terminated,
                    truncated=piece.truncated,
                    lives=piece.lives,
                )
        write_text(part / "dataset.json", json.dumps({**facts(dataset), "files": names}, indent=2) + "\n")
    notify(f"exported {len(names)} episodes into {out}")
    return [out / name for name in names]


def to_minari(
    dataset: LatentActionDataset, out: Path, dataset_id: str = DATASET_ID, notify: Callable[[str], None] = print_line
) -> Path:
    """Writes a Minari dataset whose actions are the latent ones; frames are lossless, and compressed by gzip.

    The true action and the lives are in the infos, of length T+1 as Minari has it: of the reset, then of each step;
    -1 at the reset and where the recording does not tell.

    Args:
        dataset: what to write.
        out: folder of datasets, for ``MINARI_DATASETS_PATH``.
        dataset_id: a Minari name, such as ``latent-actions-v0``.
        notify: told in one line where it is.

    Returns:
        The dataset's folder.

    Raises:
        DataError: Minari is missing, the name is no Minari name, or there is a dataset of that name.
    """
    try:
        import h5py  # noqa: F401 # Minari says less well that it is missing
        import minari
        from minari.dataset.minari_dataset import parse_dataset_id
    except ImportError as error:
        raise DataError(f"--to minari: needs the package {error.name}; pip install 'lapa[export]'") from None
    try:
        namespace = parse_dataset_id(dataset_id)[0]
    except (ValueError, TypeError):  # malformed, or without a version
        namespace = ""
    if namespace is not None:
        raise DataError(
            f"--id {dataset_id}: is no Minari name without a namespace; take one such as {DATASET_ID}"
        ) from None
    folder = out / dataset_id
    with new_folder(folder, inside=dataset_id) as root, minari_root(root):
        shape = dataset.store.frame(0).shape
        with warnings.catch_warnings():
            # Who wrote it, and with what code, is for the user to add.
            warnings.simplefilter("ignore", UserWarning)
            made = minari.create_dataset_from_buffers(
                dataset_id,
                [],
                observation_space=gym.spaces.Box(0, 255, shape, np.uint8),
                action_space=code_space(dataset),
                description="Game frames with latent actions, labelled by lapa; the true action is in the infos.",
                jpeg_encoding=False,
            )
        for number, piece in enumerate(with_progress(dataset)):
            add_to_minari(made.storage, number, piece)
        count = made.storage.total_episodes
        made.storage.update_metadata({"lapa": facts(dataset)})
    notify(f"exported {count} episodes into {folder}")
    notify(f"load with MINARI_DATASETS_PATH={out.absolute()}: minari.load_dataset({dataset_id!r})")
    return folder


def add_to_minari(storage: Any, number: int, piece: Segment) -> None:
    """Adds a segment as episode ``number`` to a Minari storage, its frames compressed."""
    import h5py
    from minari.data_collector import EpisodeBuffer

    shape = piece.frames.shape[1:]
    with h5py.File(storage.data_path / "main_data.hdf5", "a", track_order=True) as file:
        # Minari adds to a dataset that is there, and reads a compressed one as any other.
        file.create_dataset(
            f"episode_{number}/observations",
            shape=(0, *shape),
            maxshape=(None, *shape),
            dtype=np.uint8,
            chunks=(1, *shape),
            compression="gzip",
            compression_opts=1,
        )
    is_token = piece.codes[0].size == 1
    buffer = EpisodeBuffer(
        id=number,
        seed=piece.seed,
        observations=piece.frames,  # type: ignore[arg-type] # an array does as well
        actions=piece.codes.reshape(-1) if is_token else piece.codes,  # type: ignore[arg-type]
        rewards=piece.rewards.tolist(),
        terminations=piece.terminated.tolist(),
        truncations=piece.truncated.tolist(),
        infos={"action": np.array([-1, *piece.actions]), "lives": piece.lives},
    )
    storage.update_episodes([buffer])


def code_space(dataset: LatentActionDataset) -> gym.Space[Any]:
    """The space of a dataset's latent actions."""
    grid, num_codes = dataset.codes.shape[1:], dataset.header["num_codes"]
    return gym.spaces.Discrete(num_codes) if np.prod(grid) == 1 else gym.spaces.MultiDiscrete(np.full(grid, num_codes))


def facts(dataset: LatentActionDataset) -> dict[str, Any]:
    """What a reader of the frames and codes should know of them."""
    header = dataset.header
    return {name: header[name] for name in ("checkpoint", "num_codes", "grid", "split", "config")}


def with_progress(dataset: LatentActionDataset) -> Iterator[Segment]:
    """The segments, with a bar over the pairs."""
    with progress_bar(total=len(dataset), desc="export", unit="pair") as bar:
        for piece in segments(dataset):
            yield piece
            bar.update(len(piece.codes))


@contextlib.contextmanager
def new_folder(path: Path, inside: str = "") -> Iterator[Path]:
    """A folder to fill, which, or the one ``inside`` it, gets its name ``path`` on leaving without an exception.

    Raises:
        DataError: there is something at ``path``.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: holds something already; delete it, or name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix="part-"))
    try:
        yield part
        (part / inside).chmod(0o755)
        (part / inside).rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def minari_root(path: Path) -> Iterator[None]:
    """Has Minari make its datasets under ``path``."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path.absolute())  # of a relative one it loses track
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
