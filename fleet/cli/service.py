"""What a running service says of itself, for ``fleet status``. Knows nothing of the registry.

The service may be of another release than this command: what it does not say is shown as unknown.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fleet.cli.output import NONE, cell, duration, table

if TYPE_CHECKING:
    from rich.table import Table

    from fleet.project import Project

KEY = "FLEET_API_KEY"
"""In the environment: an API key for a service that wants one."""
SECONDS = 3.0
COLUMNS = ("task", "serves", "state", "ready on", "routed", "challenger", "why")


@dataclass(frozen=True, slots=True)
class ServiceView:
    """What came of asking a service."""

    address: str
    state: Mapping[str, Any] | None
    """What ``/v1/experts`` says; None if it did not answer."""
    fault: str = ""
    """Why it did not."""
    beside: str = ""
    """What has ended beside it, where that is known."""


def view_service(project: Project, address: str | None = None) -> ServiceView | None:
    """Ask the service at ``address``, else the project's own; None if none runs on this machine."""
    from fleet.whereabouts import running_service

    found = running_service(project)
    if address is None and found is None:
        return None
    if found is None or (address is not None and address.rstrip("/") != found.address):
        return _ask((address or "").rstrip("/"))
    return replace(_ask(found.address), beside=found.fault)


def _ask(address: str) -> ServiceView:
    import urllib3

    if not address.startswith(("http://", "https://")):
        return ServiceView(address, None, "that is no address such as http://127.0.0.1:8000")
    key = os.environ.get(KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib3.PoolManager(retries=False, timeout=SECONDS) as pool:
            answer = pool.request("GET", f"{address}/v1/experts", headers=headers)
        if answer.status in (401, 403):
            return ServiceView(address, None, f"it wants an API key that it knows: set {KEY}")
        state = json.loads(answer.data)
    except urllib3.exceptions.HTTPError as error:
        return ServiceView(
            address, None, f"it does not answer within {SECONDS:.0f} s ({type(error).__name__})"
        )
    except ValueError:
        return ServiceView(address, None, "what answers there is no service of a fleet")
    if answer.status != 200 or not isinstance(state, dict) or not isinstance(state.get("experts"), list):
        return ServiceView(address, None, f"what answers there is no service of a fleet ({answer.status})")
    return ServiceView(address, state)


def headline(view: ServiceView) -> str:
    """The service in a line, and what is wrong with all of it in more."""
    beside = [view.beside] if view.beside else []
    if view.state is None:
        return "\n".join([f"service at {view.address}: {view.fault}", *beside])
    state = view.state
    up = duration(time.time() - float(state.get("started") or time.time()))
    router, wanted = state.get("router_version"), state.get("router_wanted")
    parts = [
        f"{(count := state.get('replicas', NONE))} replica{'' if count == 1 else 's'}",
        f"up {up}",
        f"{state.get('waiting', NONE)} jobs waiting",
        "no router" if router is None else f"router version {router}",
    ]
    lines = [f"service at {view.address}: {', '.join(parts)}", *beside]
    if state.get("router_fault"):
        lines.append(f"router{'' if wanted is None else f' version {wanted}'}: {state['router_fault']}")
    if state.get("decisions"):
        lines.append(_decided(state["decisions"]))
    if state.get("registry_fault"):
        lines.append(f"registry: {state['registry_fault']}; what was known last goes on")
    if not state["experts"]:
        lines.append("no task has a champion yet")
    return "\n".join(lines)


def service_table(state: Mapping[str, Any]) -> Table:
    made = table(COLUMNS, right=("ready on",))
    for expert in state["experts"]:
        challenger = expert.get("challenger") or {}
        why = [str(reason) for reason in (expert.get("reason"), challenger.get("reason")) if reason]
        made.add_row(
            cell(str(expert.get("task", NONE))),
            cell(_serves(expert)),
            cell(str(expert.get("state", NONE)), "red" if expert.get("state") == "quarantined" else ""),
            f"{expert.get('ready_on', NONE)} of {state.get('replicas', NONE)}",
            "yes" if expert.get("routed", True) else cell("by name only (fleet router fit)", "yellow"),
            cell(_compared(challenger) if challenger else NONE),
            cell("; ".join(why) or NONE, "yellow" if why else ""),
        )
    return made


def _decided(shift: Mapping[str, Any]) -> str:
    """``router, last hour: 57 jobs to decide, 31 abstained (54%, fitted 2% to 9%), 3 asked back``."""
    jobs = shift.get("jobs", NONE)
    if shift.get("low") is None:
        fitted = "its fit measured no range"
    else:
        fitted = f"fitted {_percent(shift['low'])} to {_percent(shift['high'])}"
    said = (
        f"router, last hour: {jobs} job{'' if jobs == 1 else 's'} to decide, "
        f"{shift.get('abstained', NONE)} abstained ({_percent(shift.get('share'))}, {fitted}), "
        f"{shift.get('clarified', NONE)} asked back, {shift.get('compound', NONE)} needed several tasks"
    )
    if shift.get("alarm"):
        since = datetime.fromtimestamp(float(shift["since"])).astimezone()
        said += (
            f"\nALARM: since {since:%Y-%m-%d %H:%M} the router abstains "
            f"{'more' if shift['alarm'] == 'above' else 'less'} than its fit expects: "
            "jobs have changed, a task is missing, or its rows are not what comes (fleet router fit)"
        )
    return said


def _serves(expert: Mapping[str, Any]) -> str:
    version, wanted = expert.get("version"), expert.get("wanted")
    if version is None:
        return f"nothing yet (champion: version {wanted})"
    return f"version {version}" + ("" if version == wanted else f" (champion: version {wanted})")


def _compared(challenger: Mapping[str, Any]) -> str:
    """``version 4: 93 % as version 3 on 44 jobs, 12 ms (14 ms)``."""
    head = f"version {challenger.get('version', NONE)}"
    if challenger.get("state") != "ready" and not challenger.get("asked"):
        return f"{head}: {challenger.get('state', NONE)}"
    if not challenger.get("asked"):
        return f"{head}: nothing compared yet"
    said = (
        f"{head}: {_percent(challenger.get('agreement'))} as version {challenger.get('champion')} "
        f"on {challenger['asked']} jobs"
    )
    if challenger.get("fields"):
        said += f" ({', '.join(f'{n} {_percent(v)}' for n, v in challenger['fields'].items())})"
    if challenger.get("likeness") is not None:
        said += f", {_percent(challenger['likeness'])} of the words"
    if challenger.get("failed"):
        said += f", {challenger['failed']} without answer"
    if challenger.get("challenger_ms") is not None and challenger.get("champion_ms") is not None:
        said += f", {challenger['challenger_ms']:.0f} ms (champion {challenger['champion_ms']:.0f} ms)"
    return said


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.0%}"
