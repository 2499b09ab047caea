"""Requests made to break a service are told what is wrong with them, or answered; nobody else notices."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi_checks
from service import four_experts, live_service

from fleet.chaos.case import case
from fleet.chaos.poison import cases, poison
from fleet.chaos.poison_wire import wire
from fleet.job import Job, Result
from fleet.web.local import LocalBackend
from fleet.workshop import Workshop

SECONDS = 60.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    return four_experts(tmp_path_factory.mktemp("fleet"), mlflow_template)


@pytest.fixture(scope="module")
def service(shop: Workshop) -> Iterator[tuple[str, LocalBackend]]:
    with live_service(shop) as made:
        yield made


def test_poison_is_refused_clearly_or_answered_and_harms_nobody(
    service: tuple[str, LocalBackend], caplog: pytest.LogCaptureFixture
) -> None:
    address, _ = service
    figures = poison(address)
    assert figures.failures == ()
    assert figures.cases == len(cases()) >= 40
    assert sum(figures.statuses.values()) == figures.cases
    assert max(figures.statuses) < 500
    good = figures.good
    assert good.asked > figures.cases / 4
    assert (good.lost, good.mixed, good.misdated) == (0, 0, 0)
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


def test_no_two_cases_have_one_name() -> None:
    names = [each.name for each in cases()]
    assert len(set(names)) == len(names)


def bend(
    monkeypatch: pytest.MonkeyPatch,
    backend: LocalBackend,
    bent: Callable[[Sequence[Job], list[Result]], list[Result]],
) -> None:
    """Have the backend do wrong."""
    straight = backend.answer

    async def answer(jobs: Sequence[Job], **options: Any) -> list[Result]:
        return bent(jobs, await straight(jobs, **options))

    monkeypatch.setattr(backend, "answer", answer)


def test_the_drill_sees_a_case_that_breaks_something(
    service: tuple[str, LocalBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, backend = service

    def break_on_poison(jobs: Sequence[Job], results: list[Result]) -> list[Result]:
        if jobs[0].text == "poison":
            raise RuntimeError("broken")
        return results

    bend(monkeypatch, backend, break_on_poison)
    breaking = case("breaks it", {"text": "poison"}, 200)
    mute = case("says something else", {"text": 3}, 422, "what nobody says")
    figures = poison(address, [breaking, mute, wire("is sound", b"", statuses=(400,), then="ends")])
    assert figures.statuses == {0: 1, 422: 1, 500: 1}
    assert figures.good.lost == 0
    assert [failure.split(":")[0] for failure in figures.failures] == [
        "breaks it",
        "says something else",
        "is sound",
    ]


@pytest.mark.parametrize("wrong", ["mixed", "misdated", "lost"])
def test_the_drill_sees_answers_that_are_not_the_right_ones(
    service: tuple[str, LocalBackend], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    address, backend = service

    def last_one_s_answers(jobs: Sequence[Job], results: list[Result]) -> list[Result]:
        if jobs[0].id.startswith("good"):
            results = [dataclasses.replace(each, answers=before[0].answers) for each in results]
        before[:] = results
        return results

    def another_version(jobs: Sequence[Job], results: list[Result]) -> list[Result]:
        def other(answer: Any) -> Any:
            return dataclasses.replace(answer, receipt=dataclasses.replace(answer.receipt, version=2))

        return [dataclasses.replace(each, answers=tuple(map(other, each.answers))) for each in results]

    def no_answer(jobs: Sequence[Job], results: list[Result]) -> list[Result]:
        if not jobs[0].id.startswith("good"):
            return results
        return [Result(each.id, None, error="gone", code="failed") for each in results]

    before: list[Result] = []
    bent = {"mixed": last_one_s_answers, "misdated": another_version, "lost": no_answer}
    bend(monkeypatch, backend, bent[wrong])
    figures = poison(address, [case("harmless", {"text": 3}, 422)] * 8)
    found = {name: getattr(figures.good, name) for name in bent}
    assert [name for name, times in found.items() if times] == [wrong]
    assert f"a good job was {wrong}" in figures.failures[0]


CHECKED = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
]
"""All that a single request can be held against, but one: that whatever fits the schema is answered. Which
tasks there are, and that a job has either a text or fields, no schema says."""


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_requests_made_up_from_the_description_are_answered_as_described(
    service: tuple[str, LocalBackend], mode: GenerationMode
) -> None:
    address, _ = service
    described = schemathesis.openapi.from_url(f"{address}/openapi.json")
    tried = set()
    for found in described.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # there is nothing to get wrong

        @seed(4)
        @settings(
            max_examples=25,
            deadline=None,
            phases=[Phase.generate],  # no shrinking: it takes minutes
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(mode))
        def hold(case: schemathesis.Case) -> None:
            tried.add(case.path)
            case.call_and_validate(checks=CHECKED, timeout=SECONDS)

        hold()
    assert {"/v1/jobs", "/v1/chat/completions", "/v1/completions"} <= tried
