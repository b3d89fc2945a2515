"""A real game beside one that a model continues under the same actions, as a moving picture."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lapa.cli import main
from lapa.config import load_config
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.engine.training import train
from lapa.report.pictures import to_rgb
from lapa_envs.atari import make_env
from lapa_envs.imagining import imagine, write_movie


@pytest.fixture(scope="module")
def dreamer(breakout_store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A recurrent world model of Breakout that has hardly been trained."""
    out = tmp_path_factory.mktemp("run") / "run"
    overrides = ["training.steps=2", "data.downsample=4", f"training.out={out}", "training.device=cpu"]
    return load_checkpoint(train(load_config("rssm_debug", overrides=overrides), breakout_store).best, "cpu")


def test_a_model_of_latent_actions_follows_the_game_under_its_codes() -> None:
    found = imagine(load_checkpoint("breakout", "cpu"), make_env(), start="rally", steps=12, observed=4)
    assert found.real.shape == found.imagined.shape == (12, 1, 105, 80)
    assert found.imagined_rewards is None
    standing = float(np.square(found.real[0] - found.real[-1]).mean())
    assert float(np.square(found.imagined[-1] - found.real[-1]).mean()) < standing


def test_a_recurrent_world_model_takes_the_actions_and_predicts_rewards(dreamer: Checkpoint) -> None:
    found = imagine(dreamer, make_env(), steps=7)
    assert found.imagined.shape == (7, 1, 52, 40)
    assert found.imagined_rewards is not None
    assert found.rewards.shape == found.imagined_rewards.shape == (7,)


def test_it_ends_with_the_game(dreamer: Checkpoint) -> None:
    """Played at random, a game of five lives is over within 500 steps."""
    found = imagine(dreamer, make_env(), steps=2000, policy="random", seed=1)
    assert 30 < len(found.real) < 600
    assert len(found.rewards) == len(found.real)


@pytest.mark.parametrize("suffix", [".webp", ".mp4"])
def test_the_moving_picture_has_both_games_and_webp_is_lossless(
    dreamer: Checkpoint, tmp_path: Path, suffix: str
) -> None:
    found = imagine(dreamer, make_env(), steps=5)
    path = tmp_path / "new" / f"imagined{suffix}"
    write_movie(found, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == ".webp":
        with Image.open(path) as shown:
            assert shown.n_frames == 5
            shown.seek(4)
            picture = np.asarray(shown.convert("RGB"))
        real = to_rgb(found.real[4])
        zoom = next(z for z in range(1, 9) if _stands_in(picture, real.repeat(z, 0).repeat(z, 1)))
        assert _stands_in(picture, to_rgb(found.imagined[4]).repeat(zoom, 0).repeat(zoom, 1))
    else:
        video = cv2.VideoCapture(str(path))
        assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 5


def _stands_in(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture has a part somewhere, to the pixel."""
    height, width, _ = part.shape
    for top in range(picture.shape[0] - height + 1):
        for left in np.flatnonzero((picture[top, : picture.shape[1] - width + 1] == part[0, 0]).all(-1)):
            if np.array_equal(picture[top : top + height, left : left + width], part):
                return True
    return False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", "breakout_tokens"], "a Tokenizer does not continue a game; name a checkpoint of a system"),
        (["--checkpoint", "breakout", "--start", "nowhere"], "start 'nowhere': ALE/Breakout-v5 has none of this name"),
        (["--checkpoint", "breakout", "--out", "x.gif"], r"--out x\.gif: must end with \.webp or \.mp4"),
        (["--checkpoint", "breakout", "--steps", "0"], "--steps 0: must be more than 0"),
        (["--checkpoint", "breakout", "--env", "CartPole-v1"], "the model wants observations of .210, 160, 3. uint8"),
    ],
)
def test_what_cannot_be_imagined_is_said_in_one_line_and_nothing_is_written(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["imagine", *arguments]) != 0
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(said, error)
    assert not list(tmp_path.iterdir())
