"""Many registered models in one SQLite store: some through the registry's door, the others copied."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

TABLES = (
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
)


def copy_models(store: Path, source: str, names: Sequence[str]) -> None:
    """Register models like ``source`` under other names, in the store itself: in a second, not in minutes."""
    with sqlite3.connect(store) as connection:
        for table in TABLES:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            places = ", ".join("?" * len(columns))
            for row in connection.execute(f"SELECT * FROM {table} WHERE name = ?", (source,)).fetchall():
                plain = dict(zip(columns, row, strict=True))
                copies = [tuple({**plain, "name": name}.values()) for name in names]
                connection.executemany(f"INSERT INTO {table} VALUES ({places})", copies)
    connection.close()
