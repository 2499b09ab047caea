"""A file of jobs through ``fleet route --address``: speed beside the same jobs over HTTP, and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import ray

from benchmarks.bench import Report
from benchmarks.hosting.load import closed_loop
from benchmarks.hosting.stage import Stage, processes
from benchmarks.hosting.stock import task_name
from benchmarks.serving.workload import Job
from fleet.project import Project
from fleet.whereabouts import announce, only_service

FLEET = (sys.executable, "-c", "from fleet.cli.main import main; main()")
WATCH_SECONDS = 0.2
MIB = 2**20


def measure(stage: Stage, report: Report) -> None:
    size = stage.setup.size
    speed = 0.0
    for rows in size.bulk_rows:
        jobs = stage.jobs(rows)
        with only_service(Project.find(stage.stock.root)) as place:
            announce(place, stage.address, ray.get_runtime_context().gcs_address)
            told, peaks = _route(stage.stock.root, jobs)
        if told["answered"] != rows:
            report.failures.append(f"{told['answered']} of {rows} jobs of a file were answered")
        speed = speed or float(told["jobs_per_second"])
        row = {"what": "file", "jobs": rows, "jobs/s": told["jobs_per_second"]}
        report.rows.append(row | {f"{name}, peak MiB": round(peak / MIB) for name, peak in peaks.items()})
    jobs = stage.jobs(size.bulk_rows[0])
    clients = max(2 * stage.setup.replicas, size.clients // size.batch)
    # As long as it takes: every job is sent once, and none is left out.
    outcome = closed_loop(stage.address, stage.ours, jobs, 3600.0, clients=clients, batch=size.batch)
    if outcome.lost:
        report.failures.append(f"over HTTP jobs were lost: {outcome.lost[0]}")
    none = {f"{name}, peak MiB": None for name in _Peaks.NAMES}
    report.rows.append({"what": "HTTP, batches", "jobs": len(jobs), "jobs/s": outcome.speed} | none)
    report.ratios["jobs/s of a file over those of HTTP in batches"] = speed / outcome.speed


def _route(root: Path, jobs: list[Job]) -> tuple[dict, dict[str, int]]:
    """What the command says of itself, and the most that each kind of process held for itself alone."""
    with tempfile.TemporaryDirectory(prefix="bench-bulk-") as scratch:
        file = Path(scratch) / "jobs.jsonl"
        with file.open("w", encoding="utf-8") as stream:
            for job in jobs:
                stream.write(json.dumps({"text": job.text, "task": task_name(job.expert)}) + "\n")
        orders = ("--file", file, "--output", Path(scratch) / "out", "--address", "auto", "--json")
        command = [*FLEET, "--root", str(root), "route", *map(str, orders)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
            peaks = _Peaks(run.pid)
            told, _ = run.communicate()
        return json.loads(told), peaks.end()


class _Peaks:
    """The largest process of each kind, watched in a thread: what would be free if it ended (its unique set
    size). Pages of Ray's object store are shared, and count as resident in everyone who has read one."""

    NAMES = ("command", "feeder", "replica")

    def __init__(self, command: int) -> None:
        self._command = command
        self._most = dict.fromkeys(self.NAMES, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, int]:
        self._over.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            self._note("replica", processes("host"))
            self._note("feeder", _feeders())
            if psutil.pid_exists(self._command):
                self._note("command", [psutil.Process(self._command)])

    def _note(self, name: str, found: list[psutil.Process]) -> None:
        for process in found:
            try:
                self._most[name] = max(self._most[name], process.memory_full_info().uss)
            except psutil.Error:  # it has ended meanwhile
                continue


def _feeders() -> list[psutil.Process]:
    """Ray names a process after the function that it runs."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "_feed" in " ".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:
            continue
    return found
