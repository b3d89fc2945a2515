"""Writes the frames of episodes as PNG files from a process of its own, so that the environment hardly waits.

Threads will not do: the emulator holds the interpreter's lock, and both together are no faster than one after another.
Frames go through memory that both processes map; what to do with them goes through a pipe, in lines so short that each
arrives whole or not at all, whenever Ctrl-C strikes. The process ends when it is told to, or when the environment's
process is gone, and what it has not finished then it deletes: only whole episodes are left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lapa.data.png import png_of

SLOTS = 256
"""Frames that may wait to be written (25 MB of Breakout); then the environment waits."""
HEADER = struct.Struct("<qq")
"""In front of the frames: how many of them have been written, and the last ``sync`` that was reached."""


class FrameWriter:
    """Hands frames to a process that writes them.

    Args:
        frame_size: (H, W) of the frames.
    """

    def __init__(self, frame_size: tuple[int, int]) -> None:
        self.frame_size = frame_size
        size = HEADER.size + SLOTS * 3 * frame_size[0] * frame_size[1]
        memory = anonymous_file()
        os.ftruncate(memory, size)
        self._memory = mmap.mmap(memory, size)
        self._slots = np.frombuffer(self._memory, np.uint8, offset=HEADER.size).reshape(SLOTS, *frame_size, 3)
        self._sent = self._syncs = self._answered = 0
        self._answers = anonymous_file()  # not a pipe: nobody waits if nobody reads
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lapa_envs.writer", *map(str, (memory, self._answers, os.getpid(), *frame_size))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[memory, self._answers],
            start_new_session=True,  # Ctrl-C in a terminal goes to all that it runs
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        os.close(memory)

    def save(self, path: Path, frame: np.ndarray) -> None:
        """Has (H, W, 3) uint8 RGB written to ``path``; waits while too many frames do.

        Raises:
            OSError: a frame could not be written, this one or one before.
            ValueError: the frame has another size than the first.
        """
        if frame.shape != (*self.frame_size, 3):
            raise ValueError(f"frames changed from {(*self.frame_size, 3)} to {frame.shape} within a recording")
        self._wait(lambda written, _: self._sent - written < SLOTS)
        slot = self._sent % SLOTS
        self._slots[slot] = frame
        self._sent += 1  # before it is true: one slot less is no harm, one too many would be
        self._tell(save=str(path), slot=slot)

    def rename(self, part: Path, out: Path, number: int | None, num_frames: int) -> None:
        """Once its frames are written, names an episode: ``out``/``number``, or the next free number.

        Frames beyond ``num_frames``, of a step that was broken off, are deleted. To say it twice does no harm.
        """
        self._tell(rename=str(part), out=str(out), number=number, num_frames=num_frames)

    def drop(self, part: Path) -> None:
        """Deletes an episode in which nothing was done."""
        self._tell(drop=str(part))

    def flush(self) -> list[Path]:
        """Waits until all is done; the folders that were named since the last call.

        Raises:
            OSError: something could not be written.
        """
        self._syncs += 1
        sync = self._syncs
        self._tell(sync=sync)
        self._wait(lambda _, reached: reached >= sync)
        return [Path(answer["folder"]) for answer in self._new_answers()]

    def close(self) -> None:
        """Ends the process when all is done."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._tell(end=True)  # other processes may have come to hold the pipe too: its end may never come
        self._process.stdin.close()
        self._process.wait()
        os.close(self._answers)

    def _new_answers(self) -> list[dict[str, Any]]:
        size = os.fstat(self._answers).st_size - self._answered
        content = os.pread(self._answers, size, self._answered)
        self._answered += size
        return [json.loads(line) for line in content.splitlines()]

    def _wait(self, until: Callable[[int, int], bool]) -> None:
        while not until(*HEADER.unpack_from(self._memory)):
            if self._process.poll() is not None:
                self._fail()
            time.sleep(0.001)

    def _tell(self, **message: Any) -> None:
        assert self._process.stdin is not None
        try:
            # Not through a buffer: up to PIPE_BUF bytes, 4096 on Linux, go whole or not at all.
            os.write(self._process.stdin.fileno(), json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            self._fail()

    def _fail(self) -> NoReturn:
        """Raises what ended the process."""
        self._process.wait()
        errors = [answer["error"] for answer in self._new_answers() if "error" in answer]
        raise OSError(*(errors or [(errno.EPIPE, "the process that writes frames was killed", "lapa_envs.writer")])[0])


def anonymous_file() -> int:
    """Handle of a file without a name, in memory where the system has such; it goes with its last process."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("lapa-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def next_number(out: Path) -> int:
    """One past the highest number that an episode folder has."""
    numbers = (int(path.name) for path in out.iterdir() if path.name.isdecimal()) if out.is_dir() else ()
    return 1 + max(numbers, default=-1)


def name_episode(part: Path, out: Path, number: int | None) -> Path:
    """Renames ``part`` to ``out``/``number``, or to the next number that is free."""
    number = next_number(out) if number is None else number
    while True:
        folder = out / str(number)
        try:
            return part.rename(folder)  # of several processes that want the number, one gets it
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1


def lines(parent: int) -> Iterator[bytes]:
    """The lines of standard input, until it ends or the environment's process does."""
    rest = b""
    while True:
        if not select.select([0], [], [], 1.0)[0]:
            if os.getppid() != parent:  # others that it started may still hold the pipe
                return
            continue
        content = os.read(0, 1 << 16)
        if not content:
            return
        *whole, rest = (rest + content).split(b"\n")
        yield from whole


def main(arguments: list[str]) -> int:
    """Does what the lines on standard input say; answers with the folders named, or the error that ended it."""
    memory_file, answers, parent, height, width = map(int, arguments)

    def answer(**message: Any) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    with mmap.mmap(memory_file, 0) as memory:
        slots = np.frombuffer(memory, np.uint8, offset=HEADER.size).reshape(SLOTS, height, width, 3)
        written, sync, open_part = 0, 0, None
        try:
            for line in lines(parent):
                message = json.loads(line)
                if "save" in message:
                    path = Path(message["save"])
                    if path.parent != open_part:
                        open_part = path.parent
                        open_part.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(png_of(slots[message["slot"]]))
                    written += 1
                elif "drop" in message:
                    shutil.rmtree(message["drop"], ignore_errors=True)
                elif "rename" in message:
                    open_part = None
                    part = Path(message["rename"])
                    if not (part / "0.png").exists():  # it was said twice
                        shutil.rmtree(part, ignore_errors=True)
                        continue
                    (part / f"{message['num_frames']}.png").unlink(missing_ok=True)
                    answer(folder=str(name_episode(part, Path(message["out"]), message["number"])))
                elif "end" in message:
                    break
                sync = message.get("sync", sync)
                HEADER.pack_into(memory, 0, written, sync)
        except OSError as error:
            answer(error=[error.errno, error.strerror, error.filename])
        finally:
            del slots
            if open_part:
                shutil.rmtree(open_part, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
