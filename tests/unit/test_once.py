"""The same idempotency key never gives two answers to a job, however many tries a batch takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fleet.job import Result
from fleet.web.errors import Refusal
from fleet.web.once import Once


def test_what_a_batch_has_been_given_stays_while_the_rest_is_tried_again() -> None:
    once, tries = Once(), []

    async def work(places: Sequence[int]) -> list[Result]:
        tries.append(list(places))
        full = len(tries) == 1
        return [
            Result(f"{place}-{len(tries)}", None, code="overloaded" if full and place == 1 else None)
            for place in places
        ]

    async def twice() -> list[list[Result]]:
        return [await once.do("key", "the same", 3, work) for _ in range(3)]

    first, second, third = asyncio.run(twice())
    assert tries == [[0, 1, 2], [1]]
    assert [result.code for result in first] == [None, "overloaded", None]
    assert [result.id for result in second] == ["0-1", "1-2", "2-1"]
    assert third == second


def test_a_key_of_another_request_is_refused() -> None:
    once = Once()

    async def work(places: Sequence[int]) -> list[Result]:
        return [Result("1", None) for _ in places]

    async def both() -> None:
        await once.do("key", "one", 1, work)
        await once.do("key", "another", 1, work)

    with pytest.raises(Refusal, match="another request"):
        asyncio.run(both())
