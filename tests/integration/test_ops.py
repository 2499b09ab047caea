"""What ``ops/`` ships is accepted by whom it is written for."""

from __future__ import annotations

import json
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psutil
import pytest
import ray
import yaml
from click.testing import CliRunner
from hosting import three_experts
from pydantic import ValidationError
from ray import serve
from ray.cluster_utils import Cluster
from ray.scripts.scripts import cli
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema
from waiting import until

from fleet.cluster.serving import APPLICATION, application, free_port

SECONDS = 120.0
OPS = Path(__file__).parents[2] / "ops"


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((OPS / "ray-cluster.yaml").read_text())
    return loaded


def test_the_cluster_file_fits_rays_schema(declared: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    # min_workers is the local provider's own field.
    jsonschema.validate({k: v for k, v in declared.items() if k != "min_workers"}, schema)


@pytest.mark.parametrize("section", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_its_commands_have_only_options_that_ray_knows(declared: dict[str, Any], section: str) -> None:
    for command in declared[section]:
        said = shlex.split(command)
        settings = list(takewhile(lambda word: "=" in word, said))
        assert all(word.startswith("RAY_") for word in settings)
        name, *words = said[len(settings) :]
        assert name == "ray"
        known = CliRunner().invoke(cli, [words[0], "--help"]).output
        for option in (word.partition("=")[0] for word in words[1:]):
            assert option in known, command


def test_the_serve_file_fits_rays_schema_and_builds_the_application() -> None:
    declared = ServeDeploySchema.model_validate(yaml.safe_load((OPS / "serve.yaml").read_text()))
    (served,) = declared.applications
    assert served.name == APPLICATION
    assert served.import_path == f"{application.__module__}:{application.__name__}"
    with pytest.raises(ValidationError, match="'<PROJECT_FOLDER>' is no absolute path"):
        call_user_app_builder_with_args_if_necessary(application, served.args)
    built = call_user_app_builder_with_args_if_necessary(application, {**served.args, "root": "/srv/fleet"})
    assert isinstance(built, Application)


def test_behind_serves_proxy_a_request_whose_ingress_dies_may_be_sent_again(
    tmp_path: Path, mlflow_template: Path, ray_cluster: Cluster
) -> None:
    """As ``serve deploy`` has it: who comes meanwhile waits, who is under way hears 503, not a bare 500."""
    shop = three_experts(tmp_path, mlflow_template)
    node, port = ray_cluster.add_node(num_cpus=1), free_port("127.0.0.1", 0)
    address = f"http://127.0.0.1:{port}"
    over, answers = threading.Event(), list[httpx.Response]()

    def send(client: httpx.Client) -> None:
        while not over.is_set():
            answers.append(client.post("/v1/jobs", json={"text": "Anna met Bo", "task": "story"}))

    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(application({"root": str(shop.place.parent)}), name=APPLICATION)
        with httpx.Client(base_url=address, timeout=SECONDS) as client, ThreadPoolExecutor(4) as pool:
            until(lambda: "story" in client.get("/readyz").json()["experts"])
            sending = [pool.submit(send, client) for _ in range(4)]
            try:
                until(lambda: len(answers) >= 20)
                ingress_process(ray_cluster).kill()
                so_far = len(answers)
                until(lambda: len(answers) >= so_far + 20)
            finally:
                over.set()
            for each in sending:
                each.result()
            assert client.post("/v1/jobs", json={"text": "a", "task": "story"}).status_code == 200
    finally:
        serve.shutdown()
        ray_cluster.remove_node(node)
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "1"
            assert "send the request again" in answer.json()["error"]["message"]


def ingress_process(cluster: Cluster) -> psutil.Process:
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    below = [each for pid in raylets for each in psutil.Process(pid).children(recursive=True)]
    (found,) = [each for each in below if is_ingress(each)]
    return found


def is_ingress(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith(f"ray::ServeReplica:{APPLICATION}:ingress")
    except psutil.Error:  # it has just ended
        return False
