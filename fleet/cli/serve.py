"""``fleet serve``: every champion behind HTTP, on Ray Serve, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fleet.cli.invocation import Invocation, pass_invocation
from fleet.engine.specs import WEIGHTS, Weights
from fleet.errors import InputError, RegistryError
from fleet.signals import terminate_as_interrupt

if TYPE_CHECKING:
    import subprocess

    from fleet.project import Project

Command = TypeVar("Command", bound=Callable[..., Any])


def _limit(name: str, default: float, about: str) -> Callable[[Command], Command]:
    """An option that is a positive number; a test holds the default against that of ``ServeArgs``."""
    whole = isinstance(default, int)
    kind = click.IntRange(min=1) if whole else click.FloatRange(min=0, min_open=True)
    return click.option(name, type=kind, default=default, show_default=True, help=about)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--replicas",
    default="1",
    show_default=True,
    metavar="N|MIN-MAX",
    help="Processes that answer; with a range Serve adds and removes them by the jobs that are going on.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Cores of one replica; if not given, the machine's, shared out among the replicas.",
)
@click.option(
    "--weights", type=click.Choice(WEIGHTS), default="bf16", show_default=True, help="As for fleet route."
)
@click.option("--address", help="Ray cluster to run on; a Ray of our own on this machine if not given.")
@click.option(
    "--keys",
    type=click.Path(dir_okay=False),
    help="File of API keys; FLEET_API_KEYS or .fleet/keys.json, if there is one, if not given (fleet keys).",
)
@_limit("--max-jobs", 512, "Jobs that may wait in one replica; more are refused with 429.")
@_limit("--max-jobs-per-task", 128, "Of them, for one expert.")
@_limit("--max-tokens", 8192, "Of the longest job that is looked at; an expert's own limit is usually lower.")
@_limit("--max-body", 4 * 2**20, "Bytes of the largest request.")
@_limit("--seconds", 60.0, "How long a job may take that says nothing about it itself.")
@_limit("--poll-seconds", 1.0, "Between two looks at the registry.")
@click.option(
    "--shadow",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the jobs that a task's challenger is asked too, after the champion has answered and when "
    "no other job is there; fleet status compares the two.",
)
@click.option("--with-ui", is_flag=True, help="Start MLflow's UI on the same store too.")
@click.option("--ui-port", type=click.IntRange(0, 65_535), default=5000, show_default=True)
@pass_invocation
def serve(
    invocation: Invocation,
    host: str,
    port: int,
    replicas: str,
    threads: int | None,
    weights: Weights,
    address: str | None,
    shadow: float,
    with_ui: bool,
    ui_port: int,
    keys: str | None,
    max_jobs: int,
    max_jobs_per_task: int,
    max_tokens: int,
    max_body: int,
    seconds: float,
    poll_seconds: float,
) -> None:
    """Answer jobs over HTTP; follow the aliases set in MLflow.

    POST /v1/jobs takes jobs, /v1/experts shows who answers, /docs describes the rest. A version that is
    made champion (fleet promote, or in the UI) answers within seconds, when every check has let it pass.

    An address that other machines reach needs API keys: fleet keys new NAME.
    """
    fewest, most = _bounds(replicas)
    project = invocation.project()
    _check_keys(project.root, host, keys)
    from pydantic import SecretStr

    from fleet.cluster.serving import HINT_SECRET, ServeArgs, free_port, serving
    from fleet.cluster.session import connect
    from fleet.registry.door import is_server, redact
    from fleet.stores import base_folder
    from fleet.whereabouts import announce, local_name, only_service

    base_folder(project)  # converted once, here, where it is seen to take its minute
    port = free_port(host, port)
    ui = with_ui and not is_server(project.tracking_uri)
    if ui:
        ui_port = free_port("127.0.0.1", ui_port, "--ui-port")
    secret = os.environ.get(HINT_SECRET) or (secrets.token_urlsafe(32) if ui else "")
    args = ServeArgs(
        root=str(project.root),
        replicas=fewest,
        max_replicas=most,
        threads=threads or max(1, (os.cpu_count() or 1) // most),
        weights=weights,
        keys=None if keys is None else str(Path(keys).expanduser().resolve()),
        max_jobs=max_jobs,
        max_jobs_per_task=max_jobs_per_task,
        max_tokens=max_tokens,
        max_body=max_body,
        seconds=seconds,
        poll_seconds=poll_seconds,
        shadow=shadow,
        hint_secret=SecretStr(secret),
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        stack.enter_context(terminate_as_interrupt())
        place = stack.enter_context(only_service(project))
        experts = _experts(project)
        click.echo("starting Ray Serve", err=True)
        session = stack.enter_context(connect(address, telemetry=project.config.telemetry))
        if weights != "bf16" and session.started:  # a cluster's processors may be others
            from fleet.engine.weights import weights_fault

            if fault := weights_fault(weights):
                raise InputError(f"--weights {weights}: {fault}; use bf16")
        # Once more: Ray has set a handler of its own, which ends this process and leaves the service behind.
        stack.enter_context(terminate_as_interrupt())
        stack.enter_context(serving(args, host=host, port=port))
        service = f"http://{local_name(host)}:{port}"
        server = _ui(stack, project, ui_port, service, secret) if ui else None
        if with_ui and not ui:
            click.echo(f"MLflow is at {redact(project.tracking_uri)}")
        announce(place, service, session.cluster)
        click.echo(f"{experts}; the fleet answers at http://{host}:{port} (Ctrl-C ends it)")
        reached = "auto" if session.started else session.cluster
        click.echo(f"and to fleet route --file jobs.jsonl --output results/ --address {reached}")
        if server is not None:
            fault = _ended(server.wait(), project.state / "ui.log")
            click.secho(f"warning: {fault}", fg="red", err=True)
            announce(place, service, session.cluster, fault)
        while True:
            time.sleep(3600)


def _ended(code: int, log: Path) -> str:
    """What is to be said when the MLflow server ends and the service does not."""
    return (
        f"the MLflow server that was started with the service has ended by itself (code {code}, its last "
        f"words are in {log}): jobs are answered and aliases followed as before; fleet ui starts it again"
    )


def _check_keys(root: Path, host: str, named: str | None) -> None:
    """Raise ``InputError`` when the keys cannot be read, or there is none where one is needed."""
    from fleet.web.keys import KEYS_VARIABLE, KeySource
    from fleet.web.loopback import is_loopback

    source = KeySource.of(root, named and str(Path(named).expanduser().resolve()), os.environ)
    keys = source.read()
    if not keys and not is_loopback(host):
        raise InputError(
            f"--host {host} can be reached from other machines, so jobs must come with an API key, and there "
            "is none: make one (fleet keys new NAME), or listen on 127.0.0.1"
        )
    if keys:
        click.echo(f"jobs need an API key; there are: {', '.join(key.name for key in keys)}", err=True)
    elif source.required:
        click.echo(
            f"jobs need an API key, and {source.file or KEYS_VARIABLE} holds none: make one "
            "(fleet keys new NAME), or take the file away to answer this machine without keys",
            err=True,
        )


def _experts(project: Project) -> str:
    """What there is to serve, in words; warns of a registry that is away and raises if nothing is known."""
    from fleet.cluster.watcher import kept_roster
    from fleet.roster import Roster
    from fleet.stores import open_registry

    try:
        roster = Roster.read(open_registry(project))
    except RegistryError as error:
        kept = Roster.kept(kept_roster(project))
        if kept is None:
            raise
        click.echo(f"warning: {error}; starting with what was known last", err=True)
        roster = kept
    if not roster.champions:
        return (
            "no task has a champion yet: train some (fleet train-all), or fleet promote one, which "
            "then answers without a restart"
        )
    count = len(roster.champions)
    return f"{count} expert{'s' if count > 1 else ''}, {'no' if roster.router is None else 'with a'} router"


def _ui(
    stack: contextlib.ExitStack, project: Project, port: int, service: str, secret: str
) -> subprocess.Popen[bytes]:
    """Start MLflow's server, and have it tell the service what changes there."""
    from fleet.registry.ui import ui_server
    from fleet.registry.webhook import webhook, webhook_settings
    from fleet.web.hints import PATH

    address, server = stack.enter_context(
        ui_server(
            project.tracking_uri,
            project.artifact_root,
            log=project.state / "ui.log",
            port=port,
            settings=webhook_settings(project.state / "webhook.key"),
        )
    )
    click.echo(f"MLflow is at {address}")
    try:
        stack.enter_context(webhook(address, f"{service}{PATH}", secret=secret, owner=str(project.root)))
    except RegistryError as error:
        click.echo(f"warning: {error}; promotions are seen by polling alone", err=True)
    return server


def _bounds(replicas: str) -> tuple[int, int]:
    """``3`` or ``1-4``. Raises ``BadParameter``."""
    low, _, high = replicas.partition("-")
    try:
        fewest, most = int(low), int(high or low)
    except ValueError:
        fewest, most = 0, 0
    if not 1 <= fewest <= most:
        raise click.BadParameter(
            f"{replicas!r} is neither a number nor a range such as 1-4", param_hint="--replicas"
        )
    return fewest, most
