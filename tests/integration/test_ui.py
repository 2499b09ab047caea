from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import urllib3

from fleet.errors import RegistryError
from fleet.registry.lifecycle import promote
from fleet.registry.store import Registry, RunRecord
from fleet.registry.ui import serve_ui, ui_server

SERVE = """
import sys
from pathlib import Path
from fleet.registry.ui import serve_ui
uri, root, log = sys.argv[1:]
serve_ui(uri, root, log=Path(log), on_ready=lambda address: print(address, flush=True), port=0)
"""


def test_a_server_takes_versions_and_aliases_and_leaves_no_process(
    tmp_path: Path, mlflow_template: Path
) -> None:
    shutil.copyfile(mlflow_template, tmp_path / "mlflow.db")
    uri, root = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts"
    with ui_server(uri, root, log=tmp_path / "ui.log", port=0) as (address, server):
        assert urllib3.request("GET", f"{address}/health").status == 200
        family = psutil.Process(server.pid).children(recursive=True)
        assert len(family) <= 3, "the flags that keep MLflow small have no effect"
        remote = Registry(address, root)
        folder = tmp_path / "artifact"
        folder.mkdir()
        (folder / "expert.json").write_text("{}")
        info = remote.log_version("sentiment", folder, RunRecord(curves={"loss": [(0, 1.0)]}), {"seal": "s"})
        promote(remote, "sentiment", info.version, by="ann")
        assert remote.fetch(info, tmp_path / "cache").is_dir()
        # The same store in this process sees what came in by the server.
        champion = Registry(uri, root).champion("sentiment")
        assert champion is not None
        assert champion.digest == info.digest
    assert server.returncode is not None
    assert [process for process in family if process.is_running()] == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ends_cleanly(ending: signal.Signals, tmp_path: Path, mlflow_template: Path) -> None:
    shutil.copyfile(mlflow_template, tmp_path / "mlflow.db")
    command = [
        sys.executable, "-c", SERVE,
        f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"), str(tmp_path / "ui.log"),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as ours:
        try:
            assert ours.stdout is not None
            assert ours.stdout.readline().startswith("http://127.0.0.1:")
            family = psutil.Process(ours.pid).children(recursive=True)
            assert family
            os.kill(ours.pid, ending)
            assert ours.wait(60) == 0
            assert [process for process in family if process.is_running()] == []
        finally:
            ours.kill()


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(RegistryError, match=f"port {port} .* choose another"),
            ui_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path, log=tmp_path / "ui.log", port=port),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(RegistryError, match="did not start"),
        ui_server("nonsense://store", tmp_path, log=tmp_path / "ui.log", port=0),
    ):
        pass


def test_a_tracking_server_needs_no_second_one(tmp_path: Path) -> None:
    told: list[str] = []
    serve_ui("https://ann:pw@mlflow.example", tmp_path, log=tmp_path / "ui.log", on_ready=told.append)
    assert told == ["https://***@mlflow.example"]
