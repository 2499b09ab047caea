"""Values as JSON can hold them. Knows nothing of what they are about."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: dataclasses as objects, figures that are no number as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    return plain(value.item()) if hasattr(value, "item") else str(value)  # numpy's scalars


def json_line(value: Any) -> str:
    """``value`` as one line of JSON, without its end."""
    return json.dumps(plain(value), ensure_ascii=False, separators=(", ", ": "))
