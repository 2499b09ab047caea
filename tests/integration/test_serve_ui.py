"""``fleet serve --with-ui`` as a person runs it, and what becomes of it when MLflow does not stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import CliRunner
from hosting import three_experts
from waiting import until

from fleet.cli.main import main
from fleet.project import Project
from fleet.whereabouts import running_service

FLEET = (sys.executable, "-c", "from fleet.cli.main import main; main()")


@pytest.mark.timeout(400)
def test_an_mlflow_that_ends_is_told_loudly_and_jobs_are_answered_all_the_same(
    tmp_path: Path, mlflow_template: Path
) -> None:
    three_experts(tmp_path, mlflow_template)
    root, said = ("--root", str(tmp_path)), tmp_path / "said"
    orders = ("serve", "--port", "0", "--threads", "1", "--with-ui", "--ui-port", "0")
    with said.open("wb") as stream:
        serving = subprocess.Popen([*FLEET, *root, *orders], stdout=stream, stderr=stream)
    family = []
    try:
        until(lambda: "the fleet answers at" in said.read_text() or serving.poll() is not None)
        assert serving.poll() is None, said.read_text()
        family = psutil.Process(serving.pid).children(recursive=True)
        (server,) = (each for each in family if "mlflow" in each.cmdline() and each.ppid() == serving.pid)
        os.killpg(server.pid, signal.SIGKILL)
        until(lambda: "has ended by itself" in said.read_text())
        shown = CliRunner().invoke(main, [*root, "status"])
        assert "MLflow server that was started with the service has ended by itself (code -9" in shown.stdout
        assert "fleet ui starts it again" in shown.stdout
        service = running_service(Project.find(tmp_path))
        assert service is not None
        job = {"text": "hello fox", "task": "story"}
        assert httpx.post(f"{service.address}/v1/jobs", json=job, timeout=60).status_code == 200
        serving.terminate()
        assert serving.wait(120) == 0, said.read_text()
        assert not psutil.wait_procs(family, timeout=30)[1]
    finally:
        for process in (*family, serving):
            if psutil.pid_exists(process.pid):
                process.kill()
        serving.wait()
