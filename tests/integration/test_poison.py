"""Requests made to break the service: each is told what is wrong with it, or answered; nobody else notices."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from service import live_service

from fleet.chaos.case import Poison, Wire
from fleet.chaos.poison import cases, poison
from fleet.web.settings import WebSettings
from fleet.workshop import RUSSIAN, Workshop, open_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "record", "story", "letter"):
        made.make(kind, kind)
    made.route({"mood": RUSSIAN, "story": ["Anna met Bo", "hello fox"]})
    return made


@pytest.fixture(scope="module")
def address(shop: Workshop) -> Iterator[str]:
    with live_service(shop) as (address, _):
        yield address


def test_poison_is_refused_clearly_or_answered_and_harms_nobody(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        figures = poison(address)
    print(figures)
    assert figures.failures == ()
    assert figures.cases == len(cases()) >= 40
    assert sum(figures.statuses.values()) == figures.cases
    assert not [status for status in figures.statuses if status >= 500]
    good = figures.good
    assert good.asked >= figures.cases  # one after each, and more beside
    assert (good.lost, good.mixed, good.misdated) == (0, 0, 0)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_no_two_cases_have_one_name() -> None:
    names = [each.name for each in cases()]
    assert len(set(names)) == len(names)
