"""How our service and the peer's are asked over HTTP, and how their answers are read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.hosting.load import Request, Said
from benchmarks.hosting.stock import task_name
from benchmarks.serving.workload import Job

PEER_PATH = "/peer"


@dataclass(frozen=True, slots=True)
class Ours:
    """``POST /v1/jobs``; several jobs for whatever experts are one request."""

    name: str = "ours"

    def requests(self, jobs: Sequence[Job]) -> list[tuple[Request, list[Job]]]:
        wanted = [{"text": job.text, "task": task_name(job.expert)} for job in jobs]
        body = wanted[0] if len(wanted) == 1 else {"jobs": wanted}
        return [(Request("/v1/jobs", json.dumps(body)), list(jobs))]

    def read(self, body: str, count: int) -> list[Said | str]:
        found = json.loads(body)
        results = found["results"] if count > 1 else [found]
        if len(results) != count:
            return [f"{len(results)} results for {count} jobs"] * count
        return [_said(result) for result in results]


def _said(result: dict) -> Said | str:
    if result["error"] is not None:
        return str(result["error"])
    (answer,) = result["answers"]
    receipt = answer["receipt"]
    return Said(answer["value"], receipt["version"], receipt["digest"], receipt["milliseconds"])


@dataclass(frozen=True, slots=True)
class Peer:
    """A model id holds for a whole request, so several jobs are a request for each expert, at once."""

    name: str = "peer"
    generate: bool = False
    address: str = ""
    """Of Serve's proxy, which it is behind."""

    def requests(self, jobs: Sequence[Job]) -> list[tuple[Request, list[Job]]]:
        by_expert: dict[int, list[Job]] = defaultdict(list)
        for job in jobs:
            by_expert[job.expert].append(job)
        return [(self._request(expert, group), group) for expert, group in by_expert.items()]

    def _request(self, expert: int, jobs: Sequence[Job]) -> Request:
        body = json.dumps({"texts": [job.text for job in jobs], "generate": self.generate})
        return Request(self.address + PEER_PATH, body, {"serve_multiplexed_model_id": task_name(expert)})

    def read(self, body: str, count: int) -> list[Said | str]:
        labels = json.loads(body)["labels"]
        if len(labels) != count:
            return [f"{len(labels)} labels for {count} texts"] * count
        return [Said(label) for label in labels]
