"""The drills of ``fleet chaos``, on a service that really runs; and that they see what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from service import live_service

from fleet.chaos.drills import DRILLS, run_drill
from fleet.chaos.findings import Findings
from fleet.chaos.ground import TEXTS, says
from fleet.chaos.load import Load, LoadFigures
from fleet.cli.main import main
from fleet.job import Job, Result
from fleet.web.local import LocalBackend
from fleet.workshop import RUSSIAN, Workshop, open_shop

FLIPS = 15.0
"""Seconds; ``fleet chaos`` takes sixty."""
FLEET = (sys.executable, "-c", "from fleet.cli.main import main; main()")


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, Any]]:
    """By drill; all of them in a process of their own, as a person would run them."""
    command = [*FLEET, "chaos", "--seconds", str(FLIPS), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert told.stdout, told.stderr
    return {each["drill"]: each for each in json.loads(told.stdout)}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("drill", DRILLS)
def test_nothing_is_lost_mixed_or_misdated_whatever_breaks(
    figures: dict[str, dict[str, Any]], drill: str
) -> None:
    found = figures[drill]
    assert found["failures"] == []
    load = found["load"]
    assert load["answered"] == load["jobs"] >= 15


# ---- the drills see what goes wrong


@pytest.mark.parametrize(
    ("fault", "again"),
    [(httpx.ReadError, True), (httpx.RemoteProtocolError, True), (httpx.ConnectError, False)],
)
def test_who_is_cut_off_comes_again_and_who_is_refused_is_lost(
    fault: type[httpx.TransportError], again: bool
) -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        raise fault("gone", request=request)

    with httpx.Client(base_url="http://127.0.0.1", transport=httpx.MockTransport(cut)) as client:
        load = Load(client, {"story": {}}, patience=0.3)
        assert load.send("story", "hello fox") is None
    figures = load.figures()
    assert (figures.lost, figures.broken > 0) == (1, again)


@pytest.mark.parametrize(("name", "holds"), [("ingress-killed", True), ("replica-killed", False)])
def test_connections_may_break_in_one_drill_only(
    monkeypatch: pytest.MonkeyPatch, name: str, holds: bool
) -> None:
    def drill(ground: Any, seconds: float, found: Findings) -> None:
        found.load = LoadFigures(jobs=9, answered=9, broken=1)

    monkeypatch.setitem(DRILLS, name, drill)  # type: ignore[arg-type]
    figures = run_drill(name, SimpleNamespace(whole=lambda: None))  # type: ignore[arg-type]
    assert (figures.failures == ()) is holds


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("record", "story"):
        made.make(kind, kind)
    made.route({"story": list(TEXTS), "record": RUSSIAN})
    return made


@pytest.fixture
def service(shop: Workshop) -> Iterator[tuple[Load, LocalBackend]]:
    first = shop.registry.resolve("story", "champion")
    other = shop.make("story", "story", seed=2, promote=False)
    with live_service(shop) as (address, backend), httpx.Client(base_url=address, timeout=60) as client:
        yield Load(client, {"story": says(shop, [first, other])}, patience=3.0), backend


def bend(
    monkeypatch: pytest.MonkeyPatch, backend: LocalBackend, bent: Callable[[list[Result]], list[Result]]
) -> None:
    """Have the service do wrong."""
    straight = backend.answer

    async def answer(jobs: Sequence[Job], **options: Any) -> list[Result]:
        return bent(await straight(jobs, **options))

    monkeypatch.setattr(backend, "answer", answer)


def change(result: Result, **changes: Any) -> Result:
    """Its only answer, changed: ``text``, or what the receipt says."""
    answer = result.answers[0]
    if "text" in changes:
        return replace(result, answers=(replace(answer, **changes),))
    return replace(result, answers=(replace(answer, receipt=replace(answer.receipt, **changes)),))


def test_right_answers_are_right(service: tuple[Load, LocalBackend]) -> None:
    load, _ = service
    for text in TEXTS:
        assert load.send("story", text) is not None
    figures = load.figures()
    assert (figures.jobs, figures.answered, figures.failures) == (len(TEXTS), len(TEXTS), ())


@pytest.mark.parametrize("fault", ["lost", "mixed", "misdated", "unknown", "another's"])
def test_a_wrong_answer_is_seen(
    service: tuple[Load, LocalBackend], monkeypatch: pytest.MonkeyPatch, shop: Workshop, fault: str
) -> None:
    load, backend = service
    _, other = load.known["story"]
    said = load.known["story"]
    bent: dict[str, Callable[[Result], Result]] = {
        "lost": lambda result: Result(result.id, None, error="no idea", code="failed"),
        "mixed": lambda result: change(result, text="nobody says this"),
        "misdated": lambda result: change(result, text=said[other][TEXTS[0]]),
        "unknown": lambda result: change(result, version=99),
        "another's": lambda result: replace(result, id="another's"),
    }
    bend(monkeypatch, backend, lambda results: [bent[fault](result) for result in results])
    assert load.send("story", TEXTS[0]) is None
    figures = load.figures()
    kind = {"unknown": "misdated", "another's": "mixed"}.get(fault, fault)
    assert getattr(figures, kind) == 1
    assert figures.answered == 0
    assert f"1 of 1 jobs {kind}" in figures.failures


def test_who_is_told_to_come_again_comes_again(
    service: tuple[Load, LocalBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, backend = service
    tries: list[int] = []

    def full_at_first(results: list[Result]) -> list[Result]:
        tries.append(1)
        if len(tries) == 1:
            return [Result(r.id, None, error="full", code="overloaded", retry_after=1) for r in results]
        return results

    bend(monkeypatch, backend, full_at_first)
    assert load.send("story", TEXTS[0]) is not None
    assert (load.figures().again, load.figures().failures) == (1, ())


def test_a_drill_that_is_none_is_refused_by_name() -> None:
    told = CliRunner().invoke(main, ["chaos", "flod"])
    assert told.exit_code == 2
    assert "did you mean flood?" in told.stderr
