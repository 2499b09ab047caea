from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.errors as hub
import pytest

from fleet.engine.base import resolve_base
from fleet.errors import BaseError


def answer(kind: type[Exception], status: int | None = None) -> Exception:
    """The hub's error as its client raises it, made without a request on the wire."""
    error = kind.__new__(kind, "said the hub")
    error.args = ("said the hub",)
    response = type("Response", (), {"status_code": status, "headers": {}})()
    error.__dict__.update(response=response, request_id=None, server_message=None)
    return error


FAILURES: list[tuple[Exception, str]] = [
    (answer(hub.GatedRepoError, 401), r"gated: accept its licence at https://huggingface.co/google/gemma-3-270m.*HF_TOKEN"),
    (answer(hub.RepositoryNotFoundError, 404), "knows no such model"),
    (answer(hub.RevisionNotFoundError, 404), "no revision"),
    (answer(hub.HfHubHTTPError, 401), r"refuses .*\(401\)"),
    (answer(hub.HfHubHTTPError, 503), "try again later"),
    (answer(hub.RemoteEntryNotFoundError, 404), "lacks a file"),
    (hub.LocalEntryNotFoundError("offline"), "cannot be reached: check the network"),
    (hub.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
    (hub.HTTPError("timed out"), "cannot be reached"),
    (hub.HFValidationError("no"), "no hub id"),
    (OSError(28, "No space left on device"), "HF_HOME"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "says"), FAILURES, ids=lambda value: getattr(type(value), "__name__", ""))
def test_what_the_hub_refuses_is_said_with_what_to_do(tmp_path: Path, error: Exception, says: str) -> None:
    def get(*_: object) -> Path:
        raise error

    with pytest.raises(BaseError, match=says):
        resolve_base("google/gemma-3-270m", tmp_path, get=get)


def test_a_wrong_model_is_refused_before_its_weights_travel(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def get(repo: str, revision: str | None, patterns: Sequence[str], local_only: bool) -> Path:
        asked.append(patterns)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
        return tmp_path

    with pytest.raises(BaseError, match="got 'qwen3'"):
        resolve_base("Qwen/Qwen3-0.6B", tmp_path, get=get)
    assert asked == [("config.json",)]


@pytest.mark.parametrize(
    ("name", "asked"),
    [("me/tiny", ("me/tiny", None)), ("me/tiny@v1.0", ("me/tiny", "v1.0"))],
)
def test_a_hub_id_may_name_a_revision(
    tmp_path: Path, tiny_base_folder: Path, name: str, asked: tuple[Any, ...]
) -> None:
    def get(repo: str, revision: str | None, patterns: Sequence[str], local_only: bool) -> Path:
        assert (repo, revision) == asked
        return tiny_base_folder

    assert resolve_base(name, tmp_path, get=get) == tiny_base_folder
