"""An expert as an MLflow pyfunc: a table of jobs in, a list of answers out.

For notebooks and ``mlflow models serve``; hosts load experts by digest and never come here. The
base is found by name and must have the fingerprint the expert was trained on; ``model_config`` of
``mlflow.pyfunc.load_model`` overrides ``base`` (name or folder) and ``cache`` (folder).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.pyfunc import PythonModel


class ExpertModel(PythonModel):  # type: ignore[misc]  # mlflow is untyped here
    """Loads its base on the first prediction, so that inspecting a version stays cheap."""

    def load_context(self, context: Any) -> None:
        from fleet.engine.digest import folder_digest
        from fleet.errors import DigestError

        config: Mapping[str, str] = context.model_config or {}
        self._folder = Path(context.artifacts["expert"])
        self._digest = config["digest"]
        self._base = config["base"]
        self._cache = config.get("cache") or ""
        self._expert: Any = None
        found = folder_digest(self._folder)
        if found != self._digest:
            raise DigestError(
                f"this expert was altered after it was registered: its digest is {found[:12]}, "
                f"registered was {self._digest[:12]}; load another version"
            )

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answer rows that have the manifest's fields: ``[{answer, confidence, truncated, digest}]``."""
        if self._expert is None:
            from fleet.registry.solo import SoloExpert

            self._expert = SoloExpert.load(self._folder, self._digest, self._base, self._cache_dir())
        # With the signature that registration writes, MLflow has made a table of any input.
        jobs = [{str(k): str(v) for k, v in row.items()} for row in model_input.to_dict("records")]
        return [
            {
                "answer": completion.value,
                "confidence": completion.confidence,
                "truncated": completion.truncated,
                "digest": self._digest,
            }
            for completion in self._expert.answer(jobs)
        ]

    def _cache_dir(self) -> Path:
        cache = self._cache or os.environ.get("FLEET_CACHE") or "~/.cache/taskfleet"
        return Path(cache).expanduser()
