"""One contender in a process of its own, so that its peak memory is its own.

    python -m benchmarks.training.contender NAME BASE_FOLDER [--tiny]

reads a line of JSON, does what it says and writes a line of JSON, until its input ends. ``Contender`` is
the other end. What a trainer prints goes to the error stream, which is shown only when it fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.training.course import LORA, ROOT, TINY_LORA, Course, Trained, Trainer, read_lesson, score


class Contender:
    """Asks a contender in a child process; leave it to end the child."""

    def __init__(self, name: str, folder: Path, *, tiny: bool) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed when the contender ends
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, name, str(folder), *(["--tiny"] if tiny else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def train(self, course: Course) -> Trained:
        return Trained(**self._ask({"do": "train", "course": course.plain()}))

    def score(self, course: Course, rows: int) -> float:
        """The metric of what the last training made, a training of one task."""
        return float(self._ask({"do": "score", "course": course.plain(), "rows": rows})["value"])

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer = ""
        with suppress(BrokenPipeError):  # it died before it was asked: its log says why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            self._log.seek(0)
            raise RuntimeError(f"{self.name} failed:\n{self._log.read()[-4000:]}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if error is not None:
            self._process.kill()
        with suppress(BrokenPipeError):  # it may be gone already
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()


def make(name: str, folder: Path, tiny: bool) -> Trainer:
    lora = TINY_LORA if tiny else LORA
    if name in ("ours", "solo"):
        from benchmarks.training.ours import Ours

        return Ours(folder, lora, together=name == "ours")
    from benchmarks.training.settings import PEERS
    from benchmarks.training.trl_peer import TrlPeer

    return TrlPeer(folder, lora, PEERS[name])


def serve(name: str, folder: Path, tiny: bool) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    trainer = make(name, folder, tiny)
    for line in sys.stdin:
        message = json.loads(line)
        course = Course.of(message["course"])
        if message["do"] == "train":
            answer = asdict(trainer.train(course))
        else:
            from fleet.engine.base import load_base

            (task,) = course.tasks
            lesson = read_lesson(task, course.rows, course.epochs, TINY_LORA if tiny else LORA)
            answer = {"value": score(load_base(folder), trainer.adapter(), lesson, message["rows"])}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), "--tiny" in sys.argv)
