"""The commands do the whole way, and meet a user's mistake with one line that says what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lapa
from helpers import PATIENCE, ROOT
from lapa import registry
from lapa.cli import main, make_parser, parse
from lapa.config import load_config
from lapa.engine import training
from lapa.engine.sweep import cells
from lapa.inference.extraction import LatentActionDataset
from lapa.presets import presets_by_system

LAPA = Path(sys.executable).with_name("lapa")
TRAIN = ["train", "--preset", "debug", "data.root=toy", "data.downsample=1", "training.out=run", "training.steps=4"]
EXTRACT = ["extract", "--data", "toy", "--checkpoint"]
PACKED = Path("toy/.lapa/frames.lapa")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toy(here: Path, record_toy: Callable[..., Path]) -> Path:
    """Five recorded toy episodes in ``toy``."""
    return record_toy(here / "toy", steps=6)


def run_process(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE)


def files(folder: Path) -> dict[Path, bytes]:
    """Every file under a folder, by its path in there."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_whole_way_from_playing_to_live_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--episodes", "3", "--max-steps", "12"]) == 0
    assert "recorded 3 episodes into bulk_videos" in capsys.readouterr().out
    assert main(["train", "--preset", "debug"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"best: checkpoints/latent_action/best.pt after 20 steps", told)
    assert re.search(r"validation PSNR [\d.]+ dB, copying the current frame [\d.]+ dB", told)
    assert main(["extract"]) == 0
    assert "extracted 36 latent actions into latent_actions.lapa" in capsys.readouterr().out
    assert len(LatentActionDataset("latent_actions.lapa")) == 36
    assert main(["evaluate"]) == 0
    told = capsys.readouterr().out
    assert "report: report/report.html" in told
    assert "skipped: ball, paddle, bricks and digits: too small after 5-fold downsampling" in told
    assert re.search(r"PSNR gain over copying +[+-]\d", told)
    assert json.loads((here / "report/metrics.json").read_text())["metrics"]["codebook/num_codes"] == 16
    watch = ["watch", "--checkpoint", "checkpoints/latent_action/best.pt", "--steps", "3"]
    assert main([*watch, "--out", "live.jsonl"]) == 0
    lines = [json.loads(line) for line in (here / "live.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert np.shape(lines[0]["latent_action"]) == (11, 8)
    with Image.open(here / "live.webp") as movie:
        assert movie.n_frames == 3


def test_a_store_is_packed_once_and_reused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN) == 0
    assert "packed 5 episodes into toy/.lapa/frames.lapa, left out 0" in capsys.readouterr().out
    assert main([*TRAIN, "training.out=again"]) == 0
    assert "reusing toy/.lapa/frames.lapa (5 episodes, 35 frames)" in capsys.readouterr().out


def test_a_config_file_and_overrides_are_taken_in_order(toy: Path) -> None:
    Path("mine.yaml").write_text("training: {steps: 3, batch_size: 4}\n")
    assert main(["train", "--config", "mine.yaml", *TRAIN[1:-1], "training.batch_size=5"]) == 0
    written = Path("run/config.yaml").read_text()
    assert "steps: 3\n" in written
    assert "batch_size: 5\n" in written


def test_overrides_may_stand_between_options(toy: Path) -> None:
    assert main(["train", "data.root=toy", "--preset", "debug", "data.downsample=1", "--overwrite", *TRAIN[5:]]) == 0
    assert "steps: 4\n" in Path("run/config.yaml").read_text()


def test_a_bad_episode_is_left_out_and_counted_and_training_goes_on(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = toy / "2" / "4.png"
    picture.write_bytes(picture.read_bytes()[:50])
    for steps in (4, 5):  # packed anew, then reused: told both times
        assert main([*TRAIN, f"training.steps={steps}", "--overwrite"]) == 0
        told = capsys.readouterr().out
        assert "left out: " in told
        assert "toy/2/4.png" in told
        assert "4 episodes" in told
    split = json.loads(Path("run/split.json").read_text())
    assert sorted(name for names in split.values() for name in names) == ["0", "1", "3", "4"]


def test_a_local_plugin_is_one_word_away(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.quantizers.names()  # found before its entries are set aside
    monkeypatch.setattr(registry.quantizers, "_entries", dict(registry.quantizers._entries))
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own_quantizer.py").write_text(
        "from lapa.registry import quantizers\n"
        "from lapa_plugins.quantizers.vq import VectorQuantizer\n"
        "class Mine(VectorQuantizer):\n"
        "    pass\n"
        "quantizers.register('mine', Mine)\n"
    )
    assert main([*TRAIN, "model.quantizer.name=mine", "--plugin", "own_quantizer"]) == 0
    assert "name: mine" in Path("run/config.yaml").read_text()
    monkeypatch.delitem(sys.modules, "own_quantizer")


def test_the_doctor_says_what_is_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for fact in (torch.__version__, "gymnasium", str(here / "bulk_videos"), "device"):
        assert fact in told
    for system, names in presets_by_system().items():
        assert re.search(rf"^presets +{system}: {', '.join(names)}$", told, re.MULTILINE)
    for role in (registry.systems, registry.encoders, registry.quantizers, registry.conditioners):
        for name in role.names():
            assert f"{name}: ok, from " in told
    assert list(here.iterdir()) == []


def test_the_doctor_names_a_broken_plugin(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.encoders.names()
    monkeypatch.setattr(registry.encoders, "_entries", dict(registry.encoders._entries))
    registry.encoders.register("broken", "no_such_module:Encoder", owner="someone")
    assert main(["doctor"]) == 0
    assert re.search(r"broken: BROKEN: .*someone.*no_such_module", capsys.readouterr().out)


# Mistakes


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def keep_one_frame(toy: Path) -> None:
    for path in toy.glob("*/*"):
        if path.name != "0.png":
            path.unlink()


def resize(path: Path) -> None:
    Image.open(path).resize((8, 8)).save(path)


DATA_MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (shutil.rmtree, r"toy: no such folder; record episodes with `lapa record --out toy`"),
    "empty": (
        lambda toy: [shutil.rmtree(path) for path in toy.iterdir()],
        r"toy: holds no episode folders; record some with `lapa record --out toy`",
    ),
    "one frame each": (keep_one_frame, r"toy/0: has 1 frame.*a pair needs two; delete it or record it again"),
    "cut PNG": (lambda toy: cut(toy / "1" / "3.png"), r"toy/1/3.png: .*; record it again or delete"),
    "zero bytes": (lambda toy: (toy / "1" / "3.png").write_bytes(b""), r"toy/1/3.png: .*; record it again or delete"),
    "text": (lambda toy: (toy / "1" / "3.png").write_text("no"), r"toy/1/3.png: not a picture; record it again"),
    "sizes": (
        lambda toy: resize(toy / "1" / "3.png"),
        r"toy/1/3.png: is 8 x 8, the other frames are 40 x 32; keep .* in different folders",
    ),
    "cut truth": (lambda toy: cut(toy / "1" / "episode.npz"), r"toy/1/episode.npz: .*; delete it or record"),
}


def fail_with_one_line(argv: list[str], capsys: pytest.CaptureFixture[str], allowed: frozenset[Path]) -> str:
    """The error's line; the command must write no file but whole ones that are allowed."""
    before = files(Path())
    assert main(argv) == 2
    told = capsys.readouterr().err
    lines = [line for line in re.split(r"[\r\n]", told) if line.startswith("lapa: error:")]
    assert len(lines) == 1, told
    assert "Traceback" not in told
    after = files(Path())
    assert {path for path in after if after[path] != before.get(path)} <= allowed
    return lines[0]


@pytest.mark.parametrize("mistake", DATA_MISTAKES)
def test_bad_recordings_are_one_line(mistake: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, said = DATA_MISTAKES[mistake]
    spoil(toy)
    line = fail_with_one_line([*TRAIN, "--strict"], capsys, frozenset())
    assert re.search(said, line)


def test_recordings_without_any_good_episode_are_one_line(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_one_frame(toy)
    line = fail_with_one_line(TRAIN, capsys, frozenset())
    assert re.search(r"toy: no usable episode among 5; .*toy/0: has 1 frame.*; delete it or record it again", line)


CHECKPOINT_MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, r"some.pt: no such checkpoint; train one with `lapa train`"),
    "text": (lambda path: path.write_text("hello"), r"some.pt: not a checkpoint, or a cut one; train again or name"),
    "empty": (lambda path: path.touch(), r"some.pt: not a checkpoint, or a cut one; train again or name"),
    "folder": (lambda path: path.mkdir(), r"some.pt: is a folder; name the file in it, such as some.pt/best.pt"),
    "foreign": (
        lambda path: torch.save({"model": {"weight": torch.zeros(2)}}, path),
        r"some.pt: not a checkpoint of lapa; name one written by `lapa train`",
    ),
    "foreign module": (
        lambda path: torch.save(torch.nn.Linear(1, 1), path),
        r"some.pt: not a checkpoint",
    ),
}


@pytest.mark.parametrize("command", ["extract", "evaluate", "watch", "label"])
@pytest.mark.parametrize("mistake", CHECKPOINT_MISTAKES)
def test_bad_checkpoints_are_one_line(
    mistake: str, command: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = CHECKPOINT_MISTAKES[mistake]
    spoil(toy.parent / "some.pt")
    data = [] if command in ("watch", "label") else ["--data", "toy"]
    line = fail_with_one_line([command, *data, "--checkpoint", "some.pt"], capsys, frozenset())
    assert re.search(said, line)


@pytest.mark.parametrize("command", ["extract", "evaluate"])
def test_a_checkpoint_of_another_frame_size_is_one_line(
    command: str, toy: Path, breakout_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [command, "--data", "toy", "--checkpoint", str(breakout_run / "best.pt")]
    line = fail_with_one_line(argv, capsys, frozenset({PACKED}))
    assert f"{breakout_run / 'best.pt'}: was trained on frames of 210 x 160, these are 40 x 32; train on" in line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*TRAIN, "training.stepz=3"], r"training.stepz"),
        ([*TRAIN, "model.quantizer.num_codez=3"], r"model.quantizer.num_codez"),
        ([*TRAIN, "training.steps=many"], r"training.steps: .*many"),
        ([*TRAIN, "model.quantizer.num_codes=lots"], r"model.quantizer.num_codes: .*lots"),
        ([*TRAIN, "training.steps"], r"'training.steps' is not of the form dotted.key=value"),
        ([*TRAIN, "training.steps=0"], r"training.steps: must be at least 1"),
        (["train", "--preset", "laptopp"], r"unknown preset 'laptopp'; known: .*laptop"),
        (["train", "--config", "none.yaml"], r"none.yaml: no such file"),
        (
            [*TRAIN, "model.quantizer.name=vqq"],
            r"model.quantizer.name: unknown quantizer 'vqq' \(did you mean 'vq'\?\)",
        ),
        ([*TRAIN, "--plugin", "no_such_plugin"], r"--plugin no_such_plugin: cannot be imported: ModuleNotFoundError"),
        ([*TRAIN, "training.device=abacus"], r"'abacus' cannot be used here .*; take 'auto' or 'cpu'"),
        ([*TRAIN, "training.batch_size=500"], r"18 training clips do not fill one batch of 500; record more or lower"),
        (["record", "--env", "ALE/Pongg-v5"], r"--env ALE/Pongg-v5: cannot be made"),
        ([*TRAIN, "--out", "elsewhere"], r"--out elsewhere and training.out=run disagree; leave one of them out"),
        ([*TRAIN, "--steps", "5"], r"error: train takes settings as KEY=VALUE: training.steps=5$"),
        ([*TRAIN, "--steps=5"], r"error: train takes settings as KEY=VALUE: training.steps=5$"),
        ([*TRAIN, "--batch-size", "5"], r"KEY=VALUE: training.batch_size=5$"),
        ([*TRAIN, "--training.seed", "-1"], r"KEY=VALUE: training.seed=-1$"),
        ([*TRAIN, "--num_codes", "5"], r"KEY=VALUE: model.quantizer.num_codes=5$"),
        ([*TRAIN, "--compile"], r"KEY=VALUE: training.compile=VALUE$"),
        ([*TRAIN, "--channels", "[8]"], r"model.encoder.channels=\[8\], or model.decoder.channels=\[8\], or "),
        ([*TRAIN, "--turbo", "5"], r"unrecognized arguments: --turbo 5; see `lapa train --help`"),
        (["evaluate", "training.steps=5"], r"unrecognized arguments: training.steps=5; see `lapa evaluate --help`"),
        (["export", "--to", "csv"], r"argument --to: invalid choice: 'csv' .*; see `lapa export --help`"),
        (["record", "--episodes", "0"], r"--episodes 0: must be more than 0"),
        (["demo", "--max-steps", "0"], r"--max-steps 0: must be more than 0"),
        (["record", "--seed", "-1"], r"--seed -1: must not be negative"),
        (["record", "--skill", "1", "0"], r"--skill 1.0 0.0: must be two probabilities, the lower one first"),
        (["config", "trainin"], r"unknown section 'trainin' \(did you mean 'training'\?\); known: .*model"),
        ([], r"required: COMMAND; see `lapa --help`"),
        (["trian"], r"invalid choice: 'trian' \(choose from .*'?train"),
        (["record", "--env", "CartPole-v1"], r"a recording wants observations of"),
        (["record", "--env", "ALE/Boxing-v5"], r"knows only Breakout, Freeway and Pong; take --policy random for"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_mistaken_options_are_one_line(
    argv: list[str], said: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(said, fail_with_one_line(argv, capsys, frozenset({PACKED})))


def refuse_to_write(*_: Any, dir: Path, **__: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))


def fill_the_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_may_not_be_written_is_one_line(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", refuse_to_write)
    line = fail_with_one_line(TRAIN, capsys, frozenset())
    assert re.search(r"toy/.lapa: Permission denied; check .*permissions", line)


def test_a_disk_that_is_full_while_packing_is_one_line_and_leaves_nothing(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fill_the_disk)
    line = fail_with_one_line(TRAIN, capsys, frozenset())
    assert re.search(r"No space left on device; check .*free space", line)
    assert "toy" in line, "which disk is full?"


def test_an_interruption_ends_quietly(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.OptimizerStep, "__call__", interrupt)
    assert main(TRAIN) == 130
    assert capsys.readouterr().err.endswith("lapa: interrupted\n")


# Names, help and examples

COMMANDS = sorted(point.name for point in metadata.entry_points(group="lapa.commands"))


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = help_of(name, capsys)
    *_, heading, example = told.splitlines()
    assert heading == "example:"
    words = shlex.split(example)
    assert words[:2] == ["lapa", name]
    arguments = parse(make_parser(), words[1:])
    if hasattr(arguments, "overrides") and name != "sweep":
        load_config(arguments.preset, arguments.config, [word for word in arguments.overrides if "=" in word])
    if name == "sweep":
        assert len(cells(arguments.overrides)) > 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_and_no_line_is_cut(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = help_of(name, capsys)
    options = re.findall(r"^  (-\S.*|[A-Z]+=\S+.*)((?:\n {6,}.*)*)", told, re.MULTILINE)
    assert len(options) >= 2
    for first, more in options:
        assert re.search(r" {2,}\w", first) or more.strip(), first
    assert max(map(len, told.splitlines())) <= 100


@pytest.mark.parametrize("name", ["train", "config", "sweep", "compare"])
def test_the_help_lists_the_presets_of_each_system(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(help_of(name, capsys).split())
    for system, names in presets_by_system().items():
        assert f" {system}: {', '.join(names)} " in told


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"lapa {lapa.__version__}\n"


def test_data_out_and_device_are_options_of_train_as_of_the_others(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("toy", "2024")  # a path that looks like a number
    settings = ["data.downsample=1", "training.steps=3"]
    assert main(["train", "--preset", "debug", "--data", "2024", "--out", "7", "--device", "cpu", *settings]) == 0
    written = load_config(file=Path("7/config.yaml"))
    assert (written.data.root, written.training.out, written.training.device) == ("2024", "7", "cpu")
    assert main(["train", "--resume", "--out", "7", "training.out=7", "training.steps=4"]) == 0
    told = capsys.readouterr().out
    assert "after 4 steps" in told
    assert "resuming from" in told
    assert load_config(file=Path("7/config.yaml")).data.root == "2024", "the run's own settings hold"


def test_the_old_name_of_the_live_view_says_the_new_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "--steps", "2", "--out", "old.jsonl"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("lapa: `lapa label` is called `lapa watch` now; the old name keeps working\n")
    assert main(["watch", "--steps", "2", "--out", "new.jsonl"]) == 0
    assert "lapa label" not in capsys.readouterr().err
    assert Path("old.jsonl").read_text() == Path("new.jsonl").read_text() != ""


def test_the_end_of_a_training_says_what_the_system_says(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for outcome, end in (("it has learnt a lot", "; it has learnt a lot"), ("", "")):
        summary = SimpleNamespace(
            best="run/best.pt", steps=3, seconds=2.0, pairs_per_second=12.3, outcome=outcome, warnings=["it is odd"]
        )
        monkeypatch.setattr(training, "train", lambda *_, told=summary, **__: told)
        assert main(TRAIN) == 0
        *_, line, warning = capsys.readouterr().out.splitlines()
        assert line == f"best: run/best.pt after 3 steps in 2 s (12 pairs/s){end}"
        assert warning == "WARNING: it is odd"


# As a user calls them


def test_output_that_nobody_reads_on_is_no_error() -> None:
    command = [sys.executable, "-m", "lapa.cli", "config"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before a line was written
        assert process.stderr.read() == b""


def test_the_installed_command_lists_its_subcommands() -> None:
    done = run_process(LAPA, "--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^ +{name} +\w", done.stdout, re.MULTILINE)
    assert done.stderr == ""


def test_the_installed_command_ends_with_two_after_a_mistake(here: Path) -> None:
    done = run_process(LAPA, "extract", "--checkpoint", "none.pt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lapa: error: none.pt: no such checkpoint; train one with `lapa train`\n"


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_every_script_explains_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)  # as Python does for a script
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")


def test_a_script_does_what_its_command_does(here: Path) -> None:
    options = ["--episodes", "1", "--max-steps", "5", "--seed", "3", "--out"]
    assert main(["record", *options, "a"]) == 0
    done = run_process(sys.executable, ROOT / "scripts" / "record.py", *options, "b")
    assert done.returncode == 0, done.stderr
    pictures = {path: content for path, content in files(here / "a").items() if path.suffix == ".png"}
    assert len(pictures) == 6
    assert pictures.items() <= files(here / "b").items()
