"""The live view: what is played is shown as it was seen, drawn and labelled."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import PATIENCE, pixels
from lapa.cli import main
from lapa.errors import DataError
from lapa.inference.reading import Reading, load_reader
from lapa.shipped import model_named
from lapa_envs import make_env
from lapa_envs.live.game import Game, Moment, find_reader, label_live
from lapa_envs.live.page import LivePage
from lapa_envs.live.picture import code_colors, picture
from lapa_envs.pretrained import default_reader


def moment(step: int = 0, codes: Any = ((1, 2), (3, 1))) -> Moment:
    rng = np.random.default_rng(step)
    frame = rng.integers(0, 256, (210, 160, 3), dtype=np.uint8)
    drawn = rng.integers(0, 256, (105, 80, 1), dtype=np.uint8)
    reading = Reading(("left", 0.9), [("brick broken", 0.8)])
    return Moment(step, frame, drawn, np.array(codes), 3, "LEFT", reading)


def test_each_step_is_told_as_it_was() -> None:
    game = Game(make_env(), None, "scripted", seed=0, reader=find_reader(digest(), None), drawing=True)
    moments = list(game.moments(30))
    game.close()
    assert [m.step for m in moments] == list(range(30))
    assert {m.action_name for m in moments} <= {"NOOP", "FIRE", "RIGHT", "LEFT"}
    right = 0
    for m in moments:
        assert m.frame.shape == (210, 160, 3)
        assert m.drawn.shape == (105, 80, 1)
        assert m.codes.shape == (14, 20)
        assert m.reading is not None
        assert m.reading.action is not None
        meant = {"NOOP": "stay", "FIRE": "stay"}.get(m.action_name, m.action_name.lower())
        right += m.reading.action[0] == meant
    assert right >= 20, "the codes' meaning has little to do with what was done"


def frames_of(movie: Path) -> int:
    with Image.open(movie) as image:
        return image.n_frames


def digest() -> str:
    from lapa.engine.checkpoint import load_checkpoint

    return load_checkpoint("breakout", "cpu").digest


def test_labels_alone_need_no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.5])  # when it begins, and when it ends
    monkeypatch.setattr("lapa_envs.live.game.time", SimpleNamespace(monotonic=lambda: next(clock)))
    records, rate = label_live(make_env(), None, "random", 5, seed=0)
    assert [record["step"] for record in records] == list(range(5))
    assert np.array(records[0]["latent_action"]).shape == (14, 20)
    assert rate == 2.0


def test_a_status_is_one_line() -> None:
    assert moment(7).status == "step 7: LEFT, read from the codes: left 90%, brick broken 80%"


def test_the_picture_shows_frame_drawing_and_codes() -> None:
    shown = picture(m := moment())
    assert shown.shape[1] >= 3 * 160
    np.testing.assert_array_equal(shown[18:228, 4:164], m.frame)
    np.testing.assert_array_equal(shown[18:228:2, 168:328:2, :1], m.drawn)
    np.testing.assert_array_equal(shown[18:228, 332:492], code_colors(m.codes, (210, 160)))
    assert written_lines(shown) == [True, True]
    assert written_lines(picture(dataclasses.replace(m, reading=None))) == [True, False]


def written_lines(shown: np.ndarray) -> list[bool]:
    """Whether something dark stands in the line of what was done, and in that of what was read."""
    return [bool((shown[top : top + 18] < 128).all(2).any()) for top in (232, 250)]


def test_a_code_has_one_colour_and_near_codes_have_different_ones() -> None:
    colors = code_colors(np.array([[4, 5], [6, 4]]), (210, 160))
    assert colors.shape == (210, 160, 3)
    corners = [tuple(colors[y, x]) for y, x in ((0, 0), (0, 159), (209, 0), (209, 159))]
    assert corners[0] == corners[3]
    assert len(set(corners)) == 3
    assert np.abs(np.subtract(corners[0], corners[1])).sum() > 60


def test_watch_writes_lines_and_a_moving_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, movie = tmp_path / "labels.jsonl", tmp_path / "live.webp"
    assert main(["watch", "--steps", "12", "--out", str(out), "--movie", str(movie)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    assert lines[5]["read_action"] in ("stay", "left", "right")
    assert frames_of(movie) == 12
    for step in (0, 11):
        game = pixels(movie, step)[18:228, 4:164]
        wall, brick, floor = game[100, 3], game[59, 30], game[150, 80]
        assert [wall.tolist(), brick.tolist(), floor.tolist()] == [[142, 142, 142], [200, 72, 72], [0, 0, 0]]
    assert (pixels(movie, 0) != pixels(movie, 11)).any()
    assert "labels of 12 steps" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["breakout_v0", "path", "copy"])
def test_watch_of_a_shipped_model_takes_its_reader(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = model_named("breakout_v0").path
    checkpoint = {"breakout_v0": how, "path": str(file), "copy": str(shutil.copy(file, tmp_path / "copy.pt"))}[how]
    assert main(["watch", "--steps", "2", "--checkpoint", checkpoint, "--out", "labels.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    assert {line["read_action"] for line in lines} <= {"stay", "left", "right"}


def test_watch_of_a_model_without_a_reader_says_so_and_goes_on(
    breakout_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", "--steps", "3", "--checkpoint", str(breakout_run / "best.pt")]) == 0
    assert "codes are shown without a meaning: report/code_reader.npz: no such file" in capsys.readouterr().out
    assert frames_of(tmp_path / "live.webp") == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reader", "nowhere.npz"], "nowhere.npz: no such file"),
        (["--steps", "0"], "--steps 0: must be more than 0"),
        (["--web", "--fps", "-1"], "--fps -1.0: must be more than 0"),
        (["--policy", "clever"], "unknown policy 'clever'"),
        (["--env", "ALE/Nothing-v5"], "--env ALE/Nothing-v5: cannot be made"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lapa: error")]
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_another_checkpoints_reader_is_refused() -> None:
    with pytest.raises(DataError, match="reads the codes of checkpoint"):
        load_reader(default_reader(), "something else")


# The page


@pytest.fixture
def page() -> Iterator[LivePage]:
    page = LivePage(0)
    yield page
    page.close()


def get(url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as answer:
        return answer.read()


def test_the_page_answers_with_the_newest_step(page: LivePage, tmp_path: Path) -> None:
    assert b"<html" in get(page.url)
    for step in (0, 1):
        page.show(moment(step))
        assert json.loads(get(f"{page.url}state?after={step - 1}")) == {"step": step, "status": moment(step).status}
        (tmp_path / "shown.png").write_bytes(get(f"{page.url}frame.png?step={step}"))
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "shown.png")), picture(moment(step)))


def test_the_page_listens_on_this_machine_only(page: LivePage) -> None:
    assert page.url.startswith("http://127.0.0.1:")
    port = int(page.url.rsplit(":", 1)[1].strip("/"))
    others = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
    for address in {address for address in others if not address.startswith("127.")}:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((address, port), timeout=2)


@pytest.mark.parametrize(
    ("path", "host", "code"), [("nothing", None, 404), ("../etc/passwd", None, 404), ("", "evil.example", 403)]
)
def test_other_requests_are_refused(page: LivePage, path: str, host: str | None, code: int) -> None:
    headers = {"Host": f"{host}:{page.url.rsplit(':', 1)[1].strip('/')}"} if host else {}
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(page.url + path, **headers)
    assert caught.value.code == code


def test_a_port_that_is_taken_is_told(page: LivePage) -> None:
    port = page.url.rsplit(":", 1)[1].strip("/")
    with pytest.raises(DataError, match=f"--port {port}: cannot be used .*; take another, or 0 for any"):
        LivePage(int(port))


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Where a browser must be there, its absence is a failure.
needs_browser = pytest.mark.skipif(
    not CHROMIUM and "LAPA_BROWSER" not in os.environ, reason="no Chromium on this machine"
)


@pytest.mark.browser
@needs_browser
def test_a_browser_shows_the_game_as_it_goes_on(tmp_path: Path) -> None:
    assert CHROMIUM, "LAPA_BROWSER is set, but there is no Chromium"
    command = [sys.executable, "-m", "lapa.cli", "watch", "--web", "--port", "0", "--steps", "100000"]
    game = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert game.stdout is not None
        url = next(word for line in game.stdout for word in line.split() if word.startswith("http://"))
        quiet = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")
        done = subprocess.run(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={tmp_path / 'profile'}"),
                *("--enable-logging=stderr", "--virtual-time-budget=500", "--dump-dom", url),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        game.send_signal(signal.SIGINT)
        out, _ = game.communicate(timeout=PATIENCE)
    steps = [int(part.split(":")[0]) for part in done.stdout.split("<li>step ")[1:]]
    assert len(steps) > 1, "it shows one moment, not a game"
    assert steps == sorted(steps, reverse=True)
    assert '<img id="view" src="blob:http://127.0.0.1' in done.stdout
    assert "read from the codes" in done.stdout
    assert "CONSOLE" not in done.stderr
    assert game.returncode == 0
    assert "stopped after" in out
