"""The fleet as a Ray Serve application: an ingress, host replicas, a watcher. Knows nothing of jobs."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus, DeploymentStatusOverview

from fleet.asking import ROUTED_TOKENS
from fleet.cluster.ingress import STATE_SECONDS, Door, Ingress
from fleet.cluster.listener import PARTING_SECONDS
from fleet.cluster.proxy import LONG_MESSAGES
from fleet.cluster.replica import Replica, ReplicaSettings
from fleet.cluster.scaling import bounds
from fleet.cluster.watcher import POLL_SECONDS, Watcher
from fleet.engine.specs import Weights
from fleet.errors import ClusterError
from fleet.live import Limits
from fleet.web.keys import KeySource
from fleet.web.settings import WebSettings

APPLICATION = "taskfleet"
HINT_SECRET = "FLEET_HINT_SECRET"
"""In the environment: with what MLflow signs its webhook's deliveries."""
ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    **LONG_MESSAGES,
}
"""Of processes whose event loop nothing of ours blocks; Serve would pass every call from thread to thread."""
HEALTH_SECONDS = 2.0
"""Between two looks at the ingress, which there is one of."""
HEAD = {"node:__internal_head__": 0.001}
"""Where Serve's controller is: what is in front of the replicas is not lost with another node."""


class ServeArgs(BaseModel):
    """``args`` of the application in a Serve config file; ``fleet serve`` has an option for each."""

    model_config = ConfigDict(extra="forbid")

    root: str
    """The project's folder, the same on every node: an absolute path."""
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
    poll_seconds: float = Field(default=POLL_SECONDS, gt=0)
    """Between two looks at the registry."""
    max_tokens: int = Field(default=ROUTED_TOKENS, ge=1)
    """Of the longest job that is looked at; an expert's own limit is usually lower."""
    max_body: int = Field(default=WebSettings().max_body, ge=1)
    """Bytes of the largest request."""
    keys: str | None = None
    """File of the API keys, from the project's folder, where the ingress runs. If not given: what
    FLEET_API_KEYS holds, else .fleet/keys.json if there is one. Without any, only what comes to a loopback
    address is answered, whatever ``http_options`` says."""
    shadow: float = Field(default=0.0, ge=0, le=1)
    """Share of the jobs that challengers are asked too, when nothing else is to be done."""
    hint_secret: SecretStr = SecretStr("")
    """With which MLflow signs its webhook's deliveries; if not given, ``FLEET_HINT_SECRET``."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        if not Path(root).is_absolute():
            raise ValueError(
                f"{root!r} is no absolute path: name the project's folder, the same on every node"
            )
        return root


def application(args: ServeArgs | Mapping[str, Any]) -> serve.Application:
    """What ``serve deploy`` builds from a config file, whose ``args`` are a mapping: behind Serve's proxy.

    Raises ``pydantic.ValidationError`` for arguments that do not fit.
    """
    return _application(args if isinstance(args, ServeArgs) else ServeArgs.model_validate(args), None)


def _application(args: ServeArgs, listen: tuple[str, int] | None) -> serve.Application:
    """With an ingress that listens itself at a host and port of the head, or leaves it to Serve's proxy."""
    limits = Limits(args.max_jobs, args.max_jobs_per_task, args.seconds)
    settings = ReplicaSettings(
        args.root,
        args.weights,
        args.threads,
        max_tokens=args.max_tokens,
        limits=limits,
        shadow=args.shadow,
    )
    secret = args.hint_secret.get_secret_value() or os.environ.get(HINT_SECRET, "")
    keys = KeySource.of(args.root, args.keys, os.environ)
    web = WebSettings(args.max_body, keys, hint_secret=secret)
    front: dict[str, object] = {"num_cpus": 0, "resources": HEAD}
    quick: dict[str, object] = {"runtime_env": {"env_vars": ONE_LOOP}}
    watcher = serve.deployment(Watcher).options(
        name="watcher", max_ongoing_requests=10_000, ray_actor_options=front
    )
    bound = watcher.bind(args.root, poll_seconds=args.poll_seconds)
    scale: dict[str, object] = {"num_replicas": args.replicas}
    if args.max_replicas is not None and args.max_replicas > args.replicas:
        scale = {"autoscaling_config": bounds(args.replicas, args.max_replicas)}
    hosts = (
        serve.deployment(Replica)
        .options(
            name="host",
            # Every request holds a job at least: what is too much is refused by the replica's own queue,
            # which is fair between experts. Serve's is not, so nothing should have to wait in it.
            max_ongoing_requests=2 * args.max_jobs,
            max_queued_requests=args.max_jobs,
            ray_actor_options={"num_cpus": args.threads, **quick},
            **scale,
        )
        .bind(settings, bound)
    )
    ingress = serve.deployment(serve.ingress()(Ingress) if listen is None else Door).options(
        name="ingress",
        max_ongoing_requests=10_000,
        health_check_period_s=HEALTH_SECONDS,
        ray_actor_options={**front, **quick},
    )
    return ingress.bind(hosts, bound, web, args.seconds, *(listen or ()))


@contextmanager
def serving(args: ServeArgs, *, host: str, port: int) -> Iterator[DeploymentHandle]:
    """The fleet, answering at ``host:port``, for the length of a ``with`` block in a Ray session.

    Raises ``ClusterError`` when it does not come up.
    """
    try:
        serve.start(proxy_location="Disabled")
        handle = serve.run(
            _application(args, (host, port)), name=APPLICATION, route_prefix=None, logging_config=_quiet()
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        with contextlib.suppress(Exception):  # Serve itself may be what does not start
            reason = failure(serve.status().applications[APPLICATION].deployments) or reason
        with contextlib.suppress(Exception):
            serve.delete(APPLICATION)  # or it tries for ever, on a cluster that stays
        raise ClusterError(f"the service does not start: {reason}") from error
    try:
        yield handle
    finally:
        try:
            with contextlib.suppress(Exception):  # or it would take jobs still while replicas are going
                handle.leave.remote().result(timeout_s=PARTING_SECONDS + 2 * STATE_SECONDS)
        finally:  # also of who does not wait for that
            with contextlib.suppress(Exception):
                serve.shutdown()


def failure(deployments: Mapping[str, DeploymentStatusOverview]) -> str:
    """Of what Serve says of deployments, why they do not start: the last line of each traceback."""
    found = []
    for name, deployment in deployments.items():
        lines = deployment.message.strip().splitlines()
        if lines and deployment.status in (DeploymentStatus.DEPLOY_FAILED, DeploymentStatus.UNHEALTHY):
            kind, colon, said = lines[-1].partition(": ")
            found.append(f"{name}: {said if colon and kind.startswith('fleet.') else lines[-1]}")
    return "; ".join(found)


def _quiet() -> dict[str, object]:
    return {"enable_access_log": False}


def free_port(host: str, port: int, option: str = "--port") -> int:
    """``port``, or for 0 one that is free. Raises ``ClusterError``, naming ``option``, when it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ClusterError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another ({option})"
            ) from error
        return int(probe.getsockname()[1])
