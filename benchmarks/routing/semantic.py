"""The peer ``semantic-router``, asked in an environment of its own (``semantic_peer.py``).

Three encoders, none of which needs a network: its own TF-IDF; the very features that our router measures
in; and the same turned so that training rows of one task lie together (scikit-learn's linear discriminant
analysis with Ledoit and Wolf's shrinkage). The last one hands it the step that ours owes most to, so it
says what nearest neighbours are worth behind the same features. Its seconds hold that step too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from benchmarks.routing.marks import Doubles, Marks, below
from benchmarks.routing.stage import Row, columns
from fleet.routing.features import Bytes

SCRIPT = Path(__file__).with_name("semantic_peer.py")
PACKAGE = "semantic-router==1.1.1"
HOW = (
    f"python -m venv PLACE && PLACE/bin/pip install {PACKAGE} scipy, then --semantic-router PLACE/bin/python "
    "(another environment: it wants an older openai than our tests)"
)
MINUTES = 15
"""After which the peer is given up."""
ENCODERS = {"tfidf": "its TF-IDF", "states": "our features", "turned": "our features, discriminant"}
SURE = 0.5
"""The probability that its documentation asks for."""


@dataclass(frozen=True, slots=True)
class Splits:
    train: Sequence[Row]
    val: Sequence[Row]
    test: Sequence[Row]
    beyond_val: Sequence[str]
    """Out-of-scope texts for the peer's setting and its ``fit()``."""
    beyond: Sequence[str]

    def plain(self) -> dict[str, tuple[list[str], list[Any]]]:
        rows = {name: columns(getattr(self, name)) for name in ("train", "val", "test")}
        others = {name: list(getattr(self, name)) for name in ("beyond_val", "beyond")}
        return rows | {name: (texts, [None] * len(texts)) for name, texts in others.items()}


@dataclass(frozen=True, slots=True)
class Answered:
    """What the peer says behind one encoder."""

    encoder: str
    setting: str
    marks: Marks
    held: Doubles
    """The fit of validation rows."""
    seconds: float
    """To make the index, and of ``fit()``."""
    query_ms: float
    chances: Doubles
    """Calibrated, of test rows;"""
    strange: Doubles
    """of out-of-scope test rows."""

    def said(self, truth: Sequence[str]) -> str:
        """At the threshold of its documentation."""
        routed = self.chances >= SURE
        wrong = routed & (self.marks.names != np.array(truth))
        return (
            f"at a calibrated {SURE}: coverage {routed.mean():.3f}, misroutes "
            f"{wrong.sum() / max(routed.sum(), 1):.4f}, out-of-scope rows routed "
            f"{1 - below(self.strange, SURE):.3f}; its own index takes {self.query_ms:.0f} ms a query"
        )


def find(python: Path | None) -> tuple[Path | None, str]:
    """The Python that has the package, or why there is none."""
    python = python or Path(sys.executable)
    asked = "import scipy, semantic_router as s; assert s.__version__.split('.')[0] == '1', s.__version__"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=120)
    except OSError as error:
        return None, f"{python} does not run ({error.strerror}): {HOW}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        return None, f"{python} says {last}: {HOW}"
    return python, ""


def ask(python: Path, splits: Splits, features: Mapping[str, Bytes]) -> list[Answered]:
    """Behind every encoder; ``features`` of each split ``[n, W]``.

    Raises ``RuntimeError`` if the peer fails, ``subprocess.TimeoutExpired`` if it takes too long.
    """
    states = {name: rows.astype(np.float32) for name, rows in features.items()}
    started = time.perf_counter()
    turn = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
    turn.fit(states["train"], columns(splits.train)[1])
    turned = {name: turn.transform(rows).astype(np.float32) for name, rows in states.items()}
    turning = time.perf_counter() - started
    with tempfile.TemporaryDirectory(prefix="bench-semantic-") as scratch:
        folder = Path(scratch)
        (folder / "rows.json").write_text(json.dumps(splits.plain()))
        np.savez(folder / "states.npz", **states)
        np.savez(folder / "turned.npz", **turned)
        done = subprocess.run(
            [python, SCRIPT, folder], stderr=subprocess.PIPE, text=True, timeout=MINUTES * 60
        )
        if done.returncode:
            raise RuntimeError(f"semantic-router ended with {done.returncode}: {done.stderr[-2000:]}")
        answers = json.loads((folder / "answers.json").read_text())
    return [_answered(name, answers[name], turning if name == "turned" else 0.0) for name in ENCODERS]


def _answered(encoder: str, answer: dict[str, Any], before: float) -> Answered:
    test, beyond = answer["test"], answer["beyond"]
    return Answered(
        ENCODERS[encoder],
        answer["setting"],
        Marks(np.array(test["names"]), np.array(test["fit"]), np.array(beyond["fit"])),
        np.array(answer["val"]["fit"]),
        before + answer["build_seconds"] + answer["fit_seconds"],
        answer["query_ms"],
        np.array(test["chance"]),
        np.array(beyond["chance"]),
    )
