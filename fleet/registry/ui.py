"""MLflow's own server on the fleet's store, for as long as a person looks at it.

Two processes instead of the fifteen that ``mlflow server`` starts by itself, no telemetry, bound to
this machine. They form a process group of their own, so that ending the group leaves no orphan.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import urllib3

from fleet.errors import RegistryError
from fleet.registry.door import as_uri, ensure_store, is_server, redact
from fleet.signals import terminate_as_interrupt

_READY_SECONDS = 120.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.25


@contextmanager
def ui_server(
    tracking_uri: str,
    artifact_root: str | Path,
    *,
    log: Path,
    host: str = "127.0.0.1",
    port: int = 5000,
    allowed_hosts: str = "",
    settings: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the server; yields its address, once it answers, and its process, and stops it at the end.

    ``port`` 0 takes a free one. ``allowed_hosts`` is what MLflow calls so, needed behind a name;
    ``settings`` are for its environment.
    Raises ``RegistryError`` when the port is taken or the server does not come up; its output is in
    ``log``.
    """
    port = _free_port(host, port)
    root = as_uri(artifact_root)
    ensure_store(tracking_uri, root)
    command = [
        sys.executable, "-m", "mlflow", "server",
        "--default-artifact-root", root,
        "--host", host, "--port", str(port), "--workers", "1",
        *(["--allowed-hosts", allowed_hosts] if allowed_hosts else []),
    ]  # fmt: skip
    quiet = {
        # Not on the command line, where every user of the machine could read its password.
        "MLFLOW_BACKEND_STORE_URI": tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **quiet, **(settings or {})},
            start_new_session=True,
        )
        try:
            address = f"http://{host}:{port}"
            _wait_until_ready(server, address, log)
            yield address, server
        finally:
            _stop(server)


def serve_ui(
    tracking_uri: str,
    artifact_root: str | Path,
    *,
    log: Path,
    on_ready: Callable[[str], None],
    host: str = "127.0.0.1",
    port: int = 5000,
    allowed_hosts: str = "",
) -> None:
    """Serve until Ctrl-C or SIGTERM; ``on_ready`` is told the address.

    With a tracking URI that is a server already, tells its address and returns.
    """
    if is_server(tracking_uri):
        on_ready(redact(tracking_uri))
        return
    with (
        contextlib.suppress(KeyboardInterrupt),
        terminate_as_interrupt(),
        ui_server(
            tracking_uri, artifact_root, log=log, host=host, port=port, allowed_hosts=allowed_hosts
        ) as (address, server),
    ):
        on_ready(address)
        code = server.wait()
        raise RegistryError(f"the MLflow server ended by itself (code {code}); its last words:\n{_tail(log)}")


def _free_port(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RegistryError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another (--port)"
            ) from error
        return int(probe.getsockname()[1])


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    with urllib3.PoolManager(retries=False, timeout=2.0) as pool:
        for _ in range(int(_READY_SECONDS / _POLL_SECONDS)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = server.wait(_POLL_SECONDS)  # the pause between two questions
                raise RegistryError(
                    f"the MLflow server did not start (code {code}); its last words:\n{_tail(log)}"
                )
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if pool.request("GET", f"{address}/health").status == 200:
                    return
    raise RegistryError(
        f"the MLflow server at {address} gave no answer in {_READY_SECONDS:.0f} s; "
        f"its last words:\n{_tail(log)}"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the whole group: gently, then for certain, whoever of it is left."""
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
    finally:  # also when a second Ctrl-C cuts the wait short
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
