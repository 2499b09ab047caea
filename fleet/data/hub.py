"""Rows from the Hugging Face hub: ``hf://org/name/config/split``. The only user of ``datasets``.

Class numbers become their names. Knows nothing of tasks; runs no code from the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fleet.data.record import Limits, Record
from fleet.errors import Fault

__all__ = ["HubAddress", "hub_records", "parse_hub"]

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(
    rf"hf://(?P<org>{_PART})/(?P<name>{_PART})/(?P<config>{_PART})/(?P<split>[A-Za-z0-9_.]+)"
)


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where rows lie on the hub."""

    repository: str
    config: str
    split: str


def parse_hub(address: str) -> HubAddress:
    """The parts of ``hf://org/name/config/split``. Raises ValueError for anything else."""
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise ValueError("should be hf://org/name/config/split")
    return HubAddress(f"{match['org']}/{match['name']}", match["config"], match["split"])


def hub_records(address: str, limits: Limits) -> Iterator[Record | Fault]:
    """Every row of the split at ``address``, or one fault that says why there are none."""
    try:
        place = parse_hub(address)
    except ValueError as error:
        yield Fault("bad-hub-address", str(error), value=address)
        return
    import datasets

    try:
        rows = datasets.load_dataset(place.repository, place.config, split=place.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        yield Fault(
            "hub-unreachable",
            f"cannot be had from the hub ({type(error).__name__}: {reason[:200]}): check the address and the "
            "network, or download the rows and name the files instead",
            value=address,
        )
        return
    if len(rows) > limits.rows:
        yield Fault("too-many-rows", f"more than {limits.rows} rows", value=address)
        return
    for values in rows:
        named = dict(values)
        for column, feature in rows.features.items():
            if isinstance(feature, datasets.ClassLabel) and isinstance(named.get(column), int):
                # -1 stands for a row without an answer.
                named[column] = feature.int2str(named[column]) if named[column] >= 0 else None
        yield Record(named, address, None)
