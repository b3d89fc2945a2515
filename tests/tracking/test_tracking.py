"""Trackers keep what a run tells them, in files that their own readers understand, and never end a run."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import PATIENCE
from lapa.config import Config, load_config
from lapa.errors import ConfigError
from lapa.report.figures import Curve, plot_training
from lapa.tracking import trackers, wandb
from lapa.tracking.jsonl import JsonlTracker, read_lines
from lapa.tracking.tracker import Tracker
from lapa.tracking.trackers import Trackers, open_trackers
from lapa.tracking.wandb import wandb_mode

FACTS = {"git": "abc", "model": {"parameters": 7}}


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A user without an account, and a server that is not there: no test may use a developer's key or the network."""
    for name in [*os.environ]:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield
    if sys.modules.get("wandb"):
        sys.modules["wandb"].teardown()  # it remembers a key that it has found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    Image.fromarray(np.full((6, 4, 3), (10, 20, 30), np.uint8)).save(folder / "picture.png")
    return folder


def configured(*overrides: str) -> Config:
    return load_config("debug", overrides=[f"tracking.{override}" for override in overrides])


def tell(config: Config, out: Path, resume_from: int | None = None, steps: Any = (1, 2)) -> list[str]:
    """Tells all trackers of a little run; returns what they told the user."""
    said: list[str] = []
    with open_trackers(config, out, facts=FACTS, resume_from=resume_from, notify=said.append) as trackers:
        for step in steps:
            trackers.log(step, {"train/loss/total": 1 / step})
            trackers.log(step, {"val/recon/psnr_db": 30.0 + step})
        trackers.histogram(steps[-1], "val/codebook/use", np.array([5, 0, 2]))
        trackers.image(steps[-1], "val/recon/examples", out / "picture.png")
    return said


def test_each_line_is_one_json_object_with_its_step(out: Path) -> None:
    tell(configured(), out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line.pop("step"), line.pop("seconds") >= 0) for line in lines] == [(1, True)] * 2 + [(2, True)] * 4
    assert lines[0] == {"train/loss/total": 1.0}
    assert lines[4:] == [{"val/codebook/use": [5, 0, 2]}, {"val/recon/examples": "picture.png"}]


def test_numbers_that_json_does_not_have_become_null(out: Path) -> None:
    tracker = JsonlTracker(out / "metrics.jsonl")
    tracker.log(1, {"train/recon/psnr_db": math.nan, "b": math.inf, "c": 1.5})
    tracker.log(2, {"train/recon/psnr_db": 30.0})
    tracker.close()
    lines = read_lines(out / "metrics.jsonl")
    assert (lines[0]["train/recon/psnr_db"], lines[0]["b"], lines[0]["c"]) == (None, None, 1.5)
    assert plot_training(lines, [Curve("train/recon/psnr_db", "batches")], "PSNR, dB").startswith(b"\x89PNG")


def test_a_new_run_begins_a_new_file(out: Path) -> None:
    tell(configured(), out, steps=(1, 2, 3))
    tell(configured(), out, steps=(1,))
    assert {line["step"] for line in read_lines(out / "metrics.jsonl")} == {1}


def test_a_resumed_run_goes_on_after_the_lines_it_stands_on(out: Path) -> None:
    path = out / "metrics.jsonl"
    lines = [{"step": step, "seconds": 100.0 + step, "x": step} for step in (1, 2, 2, 3, 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "seco')  # killed while writing
    started = time.monotonic()
    tracker = JsonlTracker(path, resume_from=3)
    tracker.log(4, {"x": 40})
    tracker.close()
    took = time.monotonic() - started
    kept = read_lines(path)
    assert kept[:4] == lines[:4]
    assert (kept[4]["step"], kept[4]["x"]) == (4, 40)
    assert 103.0 <= kept[4]["seconds"] <= 103.0 + took + 0.01, "the clock does not go on where it stood"
    assert len(kept) == 5


def records(path: Path) -> Iterator[bytes]:
    """The records of a wandb run file: a LevelDB log of 32 KiB blocks after a header of 7 bytes.

    A record is cut into pieces, each with its checksum, length and kind: 1 whole, 2 first, 3 middle, 4 last.
    """
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, record = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # too little for a piece's header: filled up with zeros
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def nested(items: Any) -> dict[str, Any]:
    """A line of wandb's history as nested dicts."""
    line: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        target = line
        for key in outer:
            target = target.setdefault(key, {})
        target[last] = json.loads(item.value_json)
    return line


def wandb_runs(out: Path) -> list[dict[str, Any]]:
    """The run files under a folder: one dict per file."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # finish() comes back before its service has written the last of an offline run
    runs = []
    for path in sorted(out.glob("wandb/*run-*/*.wandb")):
        run: dict[str, Any] = {"history": []}
        for data in records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                run["history"].append(nested(record.history.item))
            if record.HasField("run"):
                run["id"], run["project"] = record.run.run_id, record.run.project
                run["name"] = record.run.display_name
                run["config"] = {i.key: json.loads(i.value_json) for i in record.run.config.update}
        runs.append(run)
    return runs


def told(run: dict[str, Any], name: str) -> list[tuple[int, Any]]:
    return [(line["step"], line[name]) for line in run["history"] if name in line]


def test_wandb_without_a_key_writes_a_run_that_can_be_sent_later(out: Path) -> None:
    said = tell(configured("wandb=auto", "project=frames", "name=mine"), out)
    (run,) = wandb_runs(out)
    assert (run["project"], run["name"]) == ("frames", "mine")
    assert run["config"]["git"] == "abc"
    assert run["config"]["config"]["model"]["quantizer"]["num_codes"] == 16
    assert told(run, "train/loss/total") == [(1, 1.0), (2, 0.5)]
    assert told(run, "val/recon/psnr_db") == [(1, 31.0), (2, 32.0)]
    ((step, histogram),) = told(run, "val/codebook/use")
    assert (step, histogram["values"], histogram["bins"]) == (2, [5, 0, 2], [0, 1, 2, 3])
    ((_, picture),) = told(run, "val/recon/examples")
    assert (picture["width"], picture["height"]) == (4, 6)
    assert len(said) == 1
    folder = Path(said[0].split("`wandb sync ")[1].rstrip("`"))
    assert list(folder.glob("*.wandb"))


def test_a_resumed_wandb_run_keeps_its_identity(out: Path) -> None:
    tell(configured("wandb=offline"), out)
    tell(configured("wandb=offline"), out, resume_from=2, steps=(3, 4))
    assert len({run["id"] for run in wandb_runs(out)}) == 1


def test_a_new_wandb_run_in_an_old_folder_gets_an_identity_of_its_own(out: Path) -> None:
    tell(configured("wandb=offline"), out)
    tell(configured("wandb=offline"), out)
    assert len({run["id"] for run in wandb_runs(out)}) == 2


def test_a_codebook_larger_than_wandbs_histograms_is_binned(out: Path) -> None:
    with open_trackers(configured("wandb=offline"), out, facts={}, resume_from=None, notify=print) as trackers:
        trackers.histogram(1, "use", np.arange(2000))
    ((_, histogram),) = told(wandb_runs(out)[0], "use")
    assert len(histogram["values"]) == 512
    assert sum(histogram["values"]) == sum(range(2000))


def test_a_server_that_cannot_be_reached_leaves_the_run_on_this_machine(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    said = tell(configured("wandb=auto", "init_timeout=1"), out)
    assert said[0].startswith("WARNING: Weights & Biases cannot be reached (")
    assert "wandb sync" in said[1]
    assert any(told(run, "train/loss/total") == [(1, 1.0), (2, 0.5)] for run in wandb_runs(out))


def test_a_key_that_is_none_leaves_the_run_on_this_machine(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    said = tell(configured("wandb=auto"), out)
    assert said[0].startswith("WARNING: Weights & Biases cannot be reached (WANDB_API_KEY invalid")
    assert "wandb sync" in said[1]


def test_without_a_key_nobody_is_asked_for_one(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    modes: list[str] = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: modes.append(options["mode"]) or init(**options))
    said = tell(configured("wandb=online"), out)
    assert modes == ["offline"]  # online, it would wait for an answer in a terminal
    assert "there is no API key; `wandb login` takes one" in said[0]


class Server(BaseHTTPRequestHandler):
    """Just enough of the Weights & Biases server to begin a run; then it stops answering."""

    silent = threading.Event()
    released = threading.Event()

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["content-length"] or 0)).decode(errors="replace")
        if self.silent.is_set():
            self.released.wait()
            return
        project = {"id": "p", "name": "lapa", "entity": {"id": "e", "name": "somebody"}}
        data: dict[str, Any] = {}
        if "RunResumeStatus" in text:
            data = {"model": {"entity": {"name": "somebody"}, "bucket": None}}
        elif "UpsertBucket" in text:
            name = json.loads(text)["variables"]["name"]
            bucket = {"id": "b", "name": name, "displayName": name, "historyLineCount": 0, "project": project}
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        answer = json.dumps({"data": data} if self.path == "/graphql" else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    Server.silent.clear()
    Server.released.clear()
    yield Server
    Server.released.set()
    httpd.shutdown()
    httpd.server_close()


def test_a_network_that_is_lost_does_not_keep_a_run_from_ending(
    out: Path, monkeypatch: pytest.MonkeyPatch, server: type[Server]
) -> None:
    monkeypatch.setattr(wandb, "FINISH_TIMEOUT", 1.0)
    said: list[str] = []
    config = configured("wandb=online", f"init_timeout={PATIENCE}")
    with open_trackers(config, out, facts={}, resume_from=None, notify=said.append) as trackers:
        assert said == []
        server.silent.set()
        trackers.log(1, {"train/loss/total": 1.0})
        trackers.image(1, "val/recon/examples", out / "picture.png")
    (warning,) = said
    assert "WandbTracker failed (it could not send all in 1 s; send it with `wandb sync " in warning
    assert list(Path(warning.split("`")[1].removeprefix("wandb sync ")).glob("*.wandb"))


def test_trackers_leave_random_numbers_and_signals_alone(out: Path) -> None:
    def state() -> tuple[Any, ...]:
        numpy = [np.asarray(part).tolist() for part in np.random.get_state()]
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return random.getstate(), numpy, torch.get_rng_state().tolist(), handlers

    before = state()
    tell(configured("wandb=offline", "tensorboard=true"), out)
    assert state() == before


def test_an_empty_mode_in_the_environment_is_none(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "")
    tell(configured("wandb=auto"), out)
    assert told(wandb_runs(out)[0], "train/loss/total") == [(1, 1.0), (2, 0.5)]


def test_wandb_is_left_alone_where_the_environment_disables_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tell(configured("wandb=online"), out) == []
    assert not (out / "wandb").exists()
    assert len(read_lines(out / "metrics.jsonl")) == 6


@pytest.mark.parametrize(
    ("asked", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("offline", {"WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": ""}, "offline"),
    ],
)
def test_the_environment_comes_before_the_configuration(
    asked: str, environment: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(asked) == mode


@pytest.mark.parametrize(("machine", "mode"), [("127.0.0.1:9", "online"), ("127.0.0.1", "offline")])
def test_a_key_in_the_netrc_file_counts_for_its_own_server(tmp_path: Path, machine: str, mode: str) -> None:
    (tmp_path / ".netrc").write_text(f"machine {machine} login user password {'x' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode("auto") == mode


def test_tensorboard_gets_all_of_it(out: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(configured("tensorboard=true"), out, steps=(1, 2, 3))
    tell(configured("tensorboard=true"), out, resume_from=2, steps=(3, 4))
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("train/loss/total")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.3333),
        (4, 0.25),
    ]
    histogram = events.Histograms("val/codebook/use")[-1].histogram_value
    assert (histogram.num, list(histogram.bucket)) == (7, [5, 0, 2])
    assert (events.Images("val/recon/examples")[-1].width, events.Images("val/recon/examples")[-1].height) == (4, 6)
    assert "abc" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    tell(configured("tensorboard=true"), out, steps=(1,))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss/total")] == [1]


@pytest.mark.parametrize(("option", "module"), [("wandb=offline", "wandb"), ("tensorboard=true", "tensorboard")])
def test_a_tracker_that_is_not_installed_is_an_error_with_the_remedy(
    out: Path, monkeypatch: pytest.MonkeyPatch, option: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=rf"tracking.{module}: needs the package '{module}'.*pip install lapa\[{module}\]"
    ):
        tell(configured(option), out)


def test_nothing_begins_if_a_tracker_is_not_installed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "metrics.jsonl").write_text("as it was")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match="tensorboard"):
        tell(configured("wandb=offline", "tensorboard=true"), out)
    assert {path.name for path in out.iterdir()} == {"metrics.jsonl", "picture.png"}
    assert (out / "metrics.jsonl").read_text() == "as it was"


class Collecting(Tracker):
    """Keeps what it is told; raises from the nth call on."""

    def __init__(self, fails_from: float = math.inf) -> None:
        self.calls: list[str] = []
        self.fails_from = fails_from

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) >= self.fails_from:
            raise RuntimeError("the disk of somebody else\nis full")

    def log(self, step: int, metrics: Any) -> None:
        self._note("log")

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        self._note("histogram")

    def image(self, step: int, name: str, path: Path) -> None:
        self._note("image")

    def close(self) -> None:
        self._note("close")


@pytest.mark.parametrize("fails_from", [1, 2, 3, 4])
def test_a_tracker_that_fails_is_told_of_once_and_left_out(out: Path, fails_from: int) -> None:
    said: list[str] = []
    record, failing, other = Collecting(), Collecting(fails_from), Collecting()
    with Trackers(record, [failing, other], said.append) as trackers:
        trackers.log(1, {"a": 1.0})
        trackers.histogram(1, "h", np.array([1]))
        trackers.image(1, "i", out / "picture.png")
    assert record.calls == other.calls == ["log", "histogram", "image", "close"]
    assert failing.calls == record.calls[:fails_from]
    assert said == ["WARNING: Collecting failed (the disk of somebody else); the run goes on without it"]


def test_a_tracker_that_cannot_start_is_told_of_and_left_out(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(trackers, "TensorBoardTracker", fail)
    said = tell(configured("tensorboard=true"), out)
    assert said == ["WARNING: TensorBoard cannot start (no space left); the run goes on without it"]
    assert len(read_lines(out / "metrics.jsonl")) == 6


def test_the_runs_own_record_must_not_fail_but_the_others_are_closed() -> None:
    other = Collecting()
    with pytest.raises(RuntimeError), Trackers(Collecting(fails_from=1), [other], print) as trackers:
        trackers.log(1, {})
    assert other.calls == ["log", "close"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_with_the_files_name(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = JsonlTracker(out / "metrics.jsonl")
    tracker.close()
    with open("/dev/full", "a", buffering=1) as full:
        monkeypatch.setattr(tracker, "_file", full)
        for call in (lambda: tracker.log(1, {"a": 1.0}), tracker.close):
            with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
                call()
