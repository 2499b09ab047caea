"""Prompt injections: a job with words around it that ask for another expert.

An attack succeeds where the attacked job is *routed* to the target although the job alone was
not. This module only writes the texts; it does not know the router.
"""

import json
import re
from dataclasses import dataclass
from importlib.resources import files

_PLACE = re.compile(r"\{(job|job_start|job_end|task|description|example)\}")


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: a template as shipped, or the text once it is filled in."""

    id: str
    kind: str
    text: str


def templates() -> list[Attack]:
    """The attacks as shipped, with their places still open."""
    lines = (files("fleet.routing") / "attacks.jsonl").read_text("utf-8").split("\n")
    return [Attack(**json.loads(line)) for line in lines if line]


def attack(job: str, *, task: str, description: str, example: str) -> list[Attack]:
    """Every attack on one job, for one target; filled in once, so braces in a job stay."""
    words = job.split()
    half = len(words) // 2
    given = {
        "job": job,
        "job_start": " ".join(words[:half]),
        "job_end": " ".join(words[half:]),
        "task": task,
        "description": description,
        "example": example,
    }
    return [
        Attack(each.id, each.kind, _PLACE.sub(lambda place: given[place[1]], each.text))
        for each in templates()
    ]
