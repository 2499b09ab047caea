"""The door to MLflow when what is behind it is not there, or is something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import urllib3

from fleet.errors import RegistryError
from fleet.registry.door import speaking
from fleet.registry.store import Registry


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry("http://user:secret@127.0.0.1:9", tmp_path)
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9") as caught:
        registry.champions()
    assert "secret" not in str(caught.value)


def test_retries_are_remarks_for_debug_and_the_error_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    caplog.set_level("DEBUG", logger="fleet")  # a command that another test ran may have set its own
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9.*refused.*check tracking_uri"):
        Registry("http://127.0.0.1:9", tmp_path).champions()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "MLflow at http://127.0.0.1:9 does not answer, trying again"
    ]
    retries = [record for record in caplog.records if "Retrying" in record.getMessage()]
    assert [(record.name, record.levelname) for record in retries] == [("fleet.registry.door", "DEBUG")] * 2


def test_somebody_else_s_retries_are_still_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with speaking("do nothing", "http://127.0.0.1:9"):
        pass
    with pytest.raises(urllib3.exceptions.MaxRetryError), urllib3.PoolManager() as pool:
        pool.request("GET", "http://127.0.0.1:9", retries=urllib3.Retry(1, backoff_factor=0))
    assert [record.name for record in caplog.records] == ["urllib3.connectionpool"]


def test_a_store_in_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", tmp_path)
    with pytest.raises(RegistryError, match="check tracking_uri"):
        registry.champions()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, it is a text of some length\n" * 40)
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    with pytest.raises(RegistryError):
        registry.champions()


def test_a_half_made_store_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db.new").write_text("killed half-way")
    (tmp_path / "mlflow.db.new-journal").write_text("its journal")
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    assert registry.champions() == {}


def test_telemetry_is_off_unless_asked_for() -> None:
    with speaking("look", "sqlite://"):
        from mlflow.telemetry.utils import is_telemetry_disabled

        assert is_telemetry_disabled()
