"""What is measured, standing: the service, and beside it the peer's, behind one Serve. Measures nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import psutil
from ray import serve
from transformers import PreTrainedTokenizerFast

from benchmarks.hosting.bare import BareEngine
from benchmarks.hosting.contenders import PEER_PATH, Ours, Peer
from benchmarks.hosting.load import Contender, Outcome, closed_loop
from benchmarks.hosting.peft_peer import PeerSettings, peer_application
from benchmarks.hosting.size import Size
from benchmarks.hosting.stock import Stock, register_all, task_name
from benchmarks.serving.workload import LABELS, WORK, Job, Workload, read_texts
from fleet.cluster.serving import APPLICATION, ServeArgs, free_port, serving
from fleet.engine.specs import Weights
from fleet.job import Job as HostJob

LONGEST_WAIT = 180.0
KIND = "classification"


@dataclass(frozen=True, slots=True)
class Setup:
    """What service, peer and bare engine are given alike."""

    size: Size
    replicas: int
    threads: int
    weights: Weights = "bf16"

    @property
    def rivals(self) -> int:
        """Processes of the peer and of the bare engine."""
        return self.size.rivals or self.replicas


@dataclass(slots=True)
class Stage:
    """The standing service, and what the parts share."""

    setup: Setup
    stock: Stock
    address: str
    client: httpx.Client
    workload: Workload
    bare: BareEngine | None
    peers: tuple[Peer, ...]
    ours: Ours = field(default_factory=Ours)
    drawn: int = 0
    saturated: dict[tuple[str, int], float] = field(default_factory=dict)
    """Jobs a second of a contender in a closed loop, by name and batch, once it was measured."""

    def jobs(self, count: int) -> list[Job]:
        """Jobs that nobody was given before."""
        self.drawn += 1
        return self.workload.draw(count, self.setup.size.experts, KIND, seed=self.drawn)

    def saturate(self, contender: Contender, batch: int, seconds: float) -> Outcome:
        """The most that a contender does, and remember how much it was."""
        size = self.setup.size
        # Large requests too must be enough for every replica, and for one to come while one is answered.
        clients = max(2 * self.setup.replicas, size.clients // batch)
        jobs = self.jobs(max(size.most_jobs, clients * batch))
        outcome = closed_loop(self.address, contender, jobs, seconds, clients=clients, batch=batch)
        if outcome.lost:
            raise RuntimeError(f"{contender.name} loses jobs in a closed loop: {outcome.lost[0]}")
        self.saturated[contender.name, batch] = outcome.speed
        return outcome

    def ready_on(self, task: str) -> int:
        found = self.client.get("/readyz").json()["experts"].get(task, {})
        return int(found.get("ready_on", 0))

    def wait_until_ready(self, tasks: Sequence[str]) -> None:
        """Until every replica has all of these experts."""

        def ready() -> bool:
            state = self.client.get("/readyz").json()
            experts = state["experts"]
            return state["replicas"] == self.setup.replicas and all(
                experts.get(task, {}).get("ready_on") == self.setup.replicas for task in tasks
            )

        until(ready)


def host_job(job: Job) -> HostJob:
    """A job as the engine is given it without a service."""
    return HostJob(str(job.number), text=job.text, task=task_name(job.expert))


def processes(what: str) -> list[psutil.Process]:
    """Those below this one that serve: ``host``, ``ingress``, ``watcher``, ``controller``."""
    name = "ray::ServeController" if what == "controller" else f"ray::ServeReplica:{APPLICATION}:{what}"
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(name):
                found.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def until(condition: Callable[[], bool], seconds: float = LONGEST_WAIT) -> None:
    """Wait for what other processes bring about. Raises ``TimeoutError``."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"it has not come about within {seconds:.0f} s")
        time.sleep(0.1)


@contextmanager
def standing(setup: Setup, stock: Stock, *, peer: bool, bare: bool) -> Iterator[Stage]:
    """Everything up, warm, with every expert ready; needs a Ray session."""
    size = setup.size
    experts = list(range(size.experts))
    register_all(stock, experts)
    port = free_port("127.0.0.1", 0)
    args = ServeArgs(
        root=str(stock.root), replicas=setup.replicas, threads=setup.threads, weights=setup.weights
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(stock.base_folder)
    address = f"http://127.0.0.1:{port}"
    behind = _proxy() if peer else ""
    with (
        serving(args, host="127.0.0.1", port=port),
        httpx.Client(base_url=address, timeout=60.0) as client,
    ):
        stage = Stage(
            setup,
            stock,
            address,
            client,
            Workload(tokenizer, read_texts()),
            BareEngine(str(stock.root), setup.rivals, setup.threads, setup.weights) if bare else None,
            (Peer(address=behind), Peer("peer, generate", True, behind)) if peer else (),
        )
        if peer:
            _start_peer(setup, stock)
        stage.wait_until_ready([task_name(expert) for expert in experts])
        _warm(stage)
        yield stage


def _proxy() -> str:
    """Have Serve listen itself, which our service does not need it for; the address."""
    port = free_port("127.0.0.1", 0)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    return f"http://127.0.0.1:{port}"


def _start_peer(setup: Setup, stock: Stock) -> None:
    settings = PeerSettings(
        base=str(stock.base_folder),
        adapters={task: str(folder) for task, folder in stock.folders.items()},
        labels=LABELS,
        suffix=WORK[KIND].suffix,
        threads=setup.threads,
    )
    serve.run(
        peer_application(settings, setup.rivals),
        name="peer",
        route_prefix=PEER_PATH,
        logging_config={"enable_access_log": False},
    )


def _warm(stage: Stage) -> None:
    """Every expert asked on every replica, as far as chance allows."""
    each = [job for _ in range(3) for job in _one_for_each(stage)]
    for contender in (stage.ours, *stage.peers[:1]):
        closed_loop(stage.address, contender, each, 60.0, clients=8)
    if stage.bare is not None:
        stage.bare.speed([host_job(job) for job in each * stage.setup.rivals], 60.0)


def _one_for_each(stage: Stage) -> list[Job]:
    first: dict[int, Job] = {}
    while len(first) < stage.setup.size.experts:
        first.update((job.expert, job) for job in stage.jobs(64))
    return list(first.values())
