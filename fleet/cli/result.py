"""A routed and answered job for a person to read. Knows nothing of how it was answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from fleet.cli.output import number
from fleet.plain import plain

if TYPE_CHECKING:
    from fleet.job import Answer, Receipt, Result
    from fleet.routing.decision import Decision

COLOURS = {"route": "green", "clarify": "yellow", "compound": "yellow", "abstain": "yellow"}


def show_result(result: Result) -> None:
    """Decision, answers, receipts, over several lines."""
    decision = result.decision
    if decision is not None:
        click.secho(_decision(decision), fg=COLOURS.get(decision.kind), bold=True)
        if decision.reason:
            click.echo(f"  {decision.reason}")
        if hint := _hint(result):
            click.echo(f"  {hint}")
    for answer in result.answers:
        click.echo()
        click.secho(f"{answer.task}{_remarks(answer)}", bold=True)
        click.echo(_value(answer.value, indent=2))
        click.secho(_receipt(answer.receipt), dim=True)
    for reason in _silent(result):
        click.secho(f"\nno answer: {reason}", fg="yellow")


def result_summary(name: str, result: Result) -> str:
    """One line for one job of many."""
    parts = [name]
    if result.decision is not None:
        parts.append(_decision(result.decision))
    if hint := _hint(result):
        parts.append(hint)
    parts += [f"{answer.task}{_remarks(answer)}: {_value(answer.value)}" for answer in result.answers]
    parts += [click.style(f"no answer: {reason}", fg="yellow") for reason in _silent(result)]
    if result.error:
        parts.append(click.style(f"error: {result.error}", fg="red"))
    return "  ".join(parts)


def _silent(result: Result) -> list[str]:
    """Why experts have not answered, beyond what the error says."""
    return [reason for reason in result.failed.values() if reason not in (result.error or "")]


def show_explained(explained: Mapping[str, Any]) -> None:
    """Why the router decided so, as an indented outline."""
    click.echo()
    click.secho("why", bold=True)
    for line in _outline(plain(explained), "  "):
        click.echo(line)


def _decision(decision: Decision) -> str:
    if decision.kind == "route":
        return f"route to {decision.task} ({number(decision.confidence, 2)})"
    if decision.kind == "clarify":
        return f"clarify: {' or '.join(decision.tasks)}?"
    if decision.kind == "compound":
        return f"compound: {' and '.join(decision.tasks)}"
    return "abstain"


def _hint(result: Result) -> str | None:
    """What to do about a job for several tasks that nothing was run for."""
    decision = result.decision
    if decision is None or decision.kind != "compound" or result.answers or result.error:
        return None
    every = "both" if len(decision.tasks) == 2 else f"all {len(decision.tasks)}"
    return f"nothing was run: run {every} with --all"


def _remarks(answer: Answer) -> str:
    return f" ({number(answer.confidence, 2)}{', truncated' if answer.truncated else ''})"


def _value(value: Any, indent: int | None = None) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False, indent=indent)


def _receipt(receipt: Receipt) -> str:
    router = "no router" if receipt.router_version is None else f"router version {receipt.router_version}"
    stages = ", ".join(f"{stage} {time:.0f} ms" for stage, time in receipt.milliseconds.items())
    return (
        f"receipt: {receipt.task} version {receipt.version}, digest {receipt.digest[:12]}, "
        f"base {receipt.base_fingerprint[:12]} in {receipt.weights}, {router}, "
        f"{receipt.input_tokens} tokens in, {receipt.output_tokens} out; {stages}"
    )


def _outline(value: Any, indent: str) -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else (("-", item) for item in value)
    for key, item in items:
        label = key if key == "-" else f"{key}:"
        if isinstance(item, (dict, list)) and not _short(item):
            yield f"{indent}{label}"
            yield from _outline(item, indent + "  ")
        else:
            yield f"{indent}{label} {_leaf(item)}"


def _short(item: Any) -> bool:
    """Whether it holds no further structure and goes on one line."""
    inner = item.values() if isinstance(item, dict) else item
    return not any(isinstance(one, (dict, list)) for one in inner)


def _leaf(item: Any) -> str:
    if isinstance(item, float):
        return number(item)
    if isinstance(item, dict):
        return ", ".join(f"{key} {_leaf(one)}" for key, one in item.items())
    if isinstance(item, list):
        return ", ".join(map(_leaf, item))
    return "-" if item is None else str(item)
