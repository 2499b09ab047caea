"""What ``ops/`` ships is accepted by whom it is written for."""

from __future__ import annotations

import json
import shlex
from itertools import takewhile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from click.testing import CliRunner
from pydantic import ValidationError
from ray.scripts.scripts import cli
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from fleet.cluster.serving import APPLICATION, application

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
