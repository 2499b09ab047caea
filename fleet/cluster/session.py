"""A connection to Ray: the cluster that is named, the one this process is in, or one of our own.

Stops only what it started. Local Rays run without dashboard and send no usage reports; those of a
cluster are its own affair (``ops/`` starts it without). Knows nothing of trainings.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from fleet.cluster.plan import Node, Resources
from fleet.cluster.proxy import CALLBACK
from fleet.errors import ClusterError, InputError

REACH_SECONDS = 5.0
CLIENT_PORT = 10001
AUTO = "auto"
"""The Ray of this machine."""


@dataclass(frozen=True, slots=True)
class Session:
    """A running Ray that this process is connected to."""

    address: str
    """The cluster's address, or ``local``."""
    started: bool
    """Whether it is ours and ends with us."""

    @property
    def cluster(self) -> str:
        """Where other processes of this machine find it; a Ray of our own has an address too."""
        return self.address if "://" in self.address else str(ray.get_runtime_context().gcs_address)

    @property
    def resources(self) -> Resources:
        """What the machines that are there now can do."""
        return Resources(
            tuple(
                Node(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
                for node in ray.nodes()
                if node["Alive"]
            )
        )


@contextmanager
def connect(
    address: str | None = None,
    *,
    cpus: int | None = None,
    telemetry: bool = False,
    token: bool = False,
) -> Iterator[Session]:
    """Connect for the length of a ``with`` block.

    ``address`` is ``host:port`` on a machine of that cluster, or ``ray://host:10001`` from anywhere.
    Without it: the Ray that this process already uses, else ``RAY_ADDRESS``, else a Ray of our own on
    this machine with ``cpus`` cores (all of them by default). ``token`` offers this machine's token there,
    as it takes to join a Ray that another process of ours has started.

    Raises ``InputError`` for what is no address, ``ClusterError`` when there is nothing at the address or
    it does not let us in.
    """
    if ray.is_initialized():
        yield _joined(address)
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    if wanted != "local":
        check_address(wanted)
    offer = _token() if token else contextlib.nullcontext()
    with offer, environment(CALLBACK | ({} if telemetry else {"RAY_USAGE_STATS_ENABLED": "0"})):
        _start(wanted, cpus)
        try:
            yield Session(wanted, started=wanted == "local")
        finally:
            ray.shutdown()


def _joined(address: str | None) -> Session:
    current = str(ray.get_runtime_context().gcs_address)
    if address is not None and address != current:
        raise ClusterError(
            f"this process already uses the Ray at {current}, not {address}: leave out --address, "
            "or run the command outside of it"
        )
    return Session(current, started=False)


def _start(address: str, cpus: int | None) -> None:
    try:
        if address == "local":
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if address == "local":
            raise ClusterError(f"a local Ray does not start: {reason}; its logs are in /tmp/ray") from error
        raise ClusterError(
            f"the Ray at {address} does not let this machine in: {reason}. Machines that are not of the "
            f"cluster connect with ray://HOST:{CLIENT_PORT}; Python, Ray and taskfleet must have the same "
            "versions as there; a cluster with tokens needs its token in ~/.ray/auth_token and "
            "RAY_AUTH_MODE=token"
        ) from error


@contextmanager
def _token() -> Iterator[None]:
    """Ray makes a token for a Ray that it starts, but offers it only where it has found the address itself.

    For as long as a block lasts: whatever this process starts later should not ask for one.
    """
    before = os.environ.get("RAY_AUTH_MODE")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):  # a private place, but Ray has no other door to it
        from ray._private.authentication import authentication_token_setup

        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("RAY_AUTH_MODE", None)


def check_address(address: str) -> None:
    """Look in seconds where Ray would try for a minute.

    Raises ``InputError`` for what is no address, ``ClusterError`` when nothing answers there.
    """
    if address == AUTO:
        return
    scheme, found, rest = address.rpartition("://")
    if found and scheme != "ray":
        raise InputError(
            f"{address} is no Ray address: write host:port, or ray://host:{CLIENT_PORT} "
            "(an http address is the dashboard's)"
        )
    host, colon, port = rest.partition("/")[0].rpartition(":")
    if not colon or not port.isdigit():
        raise InputError(f"{address} is no Ray address: write host:port, or ray://host:{CLIENT_PORT}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at {address} ({error}): is the cluster up (`ray status` on its head) and the "
            "port open? Leave out --address and RAY_ADDRESS to use this machine alone"
        ) from error


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set what is not set already, and put it back: Ray reads its settings from the environment."""
    ours = [key for key in values if key not in os.environ]
    os.environ.update({key: values[key] for key in ours})
    try:
        yield
    finally:
        for key in ours:
            with contextlib.suppress(KeyError):
                del os.environ[key]
