"""The fleet as a Ray Serve application: an ingress, host replicas, a watcher. Knows nothing of jobs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

from fleet.cluster.ingress import Ingress
from fleet.cluster.replica import Replica, ReplicaSettings
from fleet.cluster.watcher import POLL_SECONDS, Watcher
from fleet.engine.specs import Weights
from fleet.errors import ClusterError
from fleet.live import Limits
from fleet.loaded import EXPERT_BYTES
from fleet.web.settings import WebSettings

APPLICATION = "taskfleet"
ONGOING_PER_REPLICA = 16
"""Requests that a replica should have at a time, where there may be more or fewer replicas."""
HEAD = {"node:__internal_head__": 0.001}
"""Where Serve's controller and proxy are: what is in front of the replicas is not lost with another node."""


class ServeArgs(BaseModel):
    """``args`` of the application in a Serve config file; ``fleet serve`` has an option for each."""

    model_config = ConfigDict(extra="forbid")

    root: str
    """The project's folder, on every node."""
    replicas: int = Field(default=1, ge=1, le=1024)
    """Host replicas; the fewest, where there may be more."""
    max_replicas: int | None = Field(default=None, ge=1, le=1024)
    """Most host replicas; Serve adds and removes them by the jobs that are going on."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Of one replica, a core each."""
    weights: Weights = "bf16"
    max_jobs: int = Field(default=Limits().jobs, ge=1)
    """Jobs that may wait in one replica."""
    max_jobs_per_task: int = Field(default=Limits().per_task, ge=1)
    """Of them, for one expert."""
    seconds: float = Field(default=Limits().seconds, gt=0)
    """How long a job may take that says nothing about it itself."""
    expert_bytes: int = Field(default=EXPERT_BYTES, ge=0)
    """Of experts that a replica keeps in memory although no job needs them."""
    poll_seconds: float = Field(default=POLL_SECONDS, gt=0)
    """Between two looks at the registry."""


def application(args: ServeArgs) -> serve.Application:
    """What ``serve deploy`` builds from a config file and ``fleet serve`` runs."""
    limits = Limits(args.max_jobs, args.max_jobs_per_task, args.seconds)
    settings = ReplicaSettings(args.root, args.weights, args.threads, args.expert_bytes, limits)
    front = {"num_cpus": 0, "resources": HEAD}
    watcher = serve.deployment(Watcher).options(
        name="watcher", max_ongoing_requests=10_000, ray_actor_options=front
    )
    bound = watcher.bind(args.root, poll_seconds=args.poll_seconds)
    scale: dict[str, object] = {"num_replicas": args.replicas}
    if args.max_replicas is not None and args.max_replicas > args.replicas:
        scale = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=args.replicas,
                max_replicas=args.max_replicas,
                target_ongoing_requests=ONGOING_PER_REPLICA,
            )
        }
    hosts = (
        serve.deployment(Replica)
        .options(
            name="host",
            # Every request holds a job at least: what is too much is refused by the replica's own queue,
            # which is fair between experts. Serve's is not, so nothing should have to wait in it.
            max_ongoing_requests=2 * args.max_jobs,
            max_queued_requests=args.max_jobs,
            ray_actor_options={"num_cpus": args.threads},
            **scale,
        )
        .bind(settings, bound)
    )
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="ingress", max_ongoing_requests=10_000, ray_actor_options=front
    )
    return ingress.bind(hosts, bound, WebSettings(), args.seconds)


@contextmanager
def serving(args: ServeArgs, *, host: str, port: int) -> Iterator[DeploymentHandle]:
    """The fleet, answering at ``host:port``, for the length of a ``with`` block in a Ray session.

    Raises ``ClusterError`` when it does not come up.
    """
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        handle = serve.run(application(args), name=APPLICATION, route_prefix="/", logging_config=_quiet())
    except RuntimeError as error:
        raise ClusterError(f"the service does not start: {str(error).strip().splitlines()[0]}") from error
    try:
        yield handle
    finally:
        with contextlib.suppress(Exception):
            serve.shutdown()


def _quiet() -> dict[str, object]:
    return {"enable_access_log": False}


def free_port(host: str, port: int) -> int:
    """``port``, or for 0 one that is free. Raises ``ClusterError`` when it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ClusterError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another (--port)"
            ) from error
        return int(probe.getsockname()[1])
