from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fleet.cli.main import main
from fleet.web.keys import find_key, read_keys


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "fleet.yaml").write_text("name: small\n")
    (tmp_path / "tasks" / "mood").mkdir(parents=True)
    (tmp_path / "tasks" / "mood" / "task.yaml").write_text("task: mood\n")
    return tmp_path


def run(root: Path, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, ["--root", str(root), *arguments], **options)


def test_a_key_is_made_shown_once_listed_and_revoked(root: Path) -> None:
    made = run(root, "keys", "new", "acme", "--task", "mood", "--per-minute", "60", "--days", "30")
    assert made.exit_code == 0, made.output
    (secret,) = made.stdout.split()
    (key,) = read_keys(root / ".fleet/keys.json")
    assert find_key([key], secret, key.created) == key
    assert (key.name, key.tasks, key.per_minute) == ("acme", ("mood",), 60)
    assert key.expires is not None
    shown = run(root, "keys", "list")
    assert "acme" in shown.stdout
    listed = json.loads(run(root, "keys", "list", "--json").stdout)
    assert listed[0].keys() == {"name", "per_minute", "tasks", "metrics", "created", "expires"}
    assert secret not in shown.output + json.dumps(listed)
    assert run(root, "keys", "revoke", "acme").exit_code == 0
    assert "fleet keys new" in run(root, "keys", "list").stdout
    assert run(root, "keys", "revoke", "acme").exit_code == 2


def test_keys_of_another_file(root: Path) -> None:
    other = root / "other.json"
    assert run(root, "keys", "new", "acme", "--file", str(other)).exit_code == 0
    assert not (root / ".fleet").exists()
    assert "acme" in run(root, "keys", "list", "--file", str(other)).stdout


def test_a_task_that_is_not_declared_is_noted(root: Path) -> None:
    made = run(root, "keys", "new", "acme", "--task", "moods")
    assert made.exit_code == 0
    assert "did you mean mood?" in made.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "a b"], "name"),
        (["new", "acme", "--per-minute", "0"], "per-minute"),
        (["new", "acme", "--metrics", "--task", "mood"], "--metrics"),
        (["revoke", "acme"], "there are: none"),
    ],
)
def test_what_cannot_be_done_is_said(root: Path, arguments: list[str], said: str) -> None:
    done = run(root, "keys", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4"])
def test_a_service_that_others_reach_does_not_start_without_keys(root: Path, host: str) -> None:
    refused = run(root, "serve", "--host", host, env={"FLEET_API_KEYS": ""})
    assert refused.exit_code == 2
    assert "fleet keys new NAME" in refused.stderr
    (root / "empty.json").write_text('{"keys": []}')
    assert run(root, "serve", "--host", host, "--keys", str(root / "empty.json")).exit_code == 2


def test_a_service_does_not_start_with_keys_that_cannot_be_read(root: Path) -> None:
    absent = run(root, "serve", "--keys", str(root / "absent.json"))
    assert absent.exit_code == 2
    assert "absent.json" in absent.stderr
    broken = run(root, "serve", env={"FLEET_API_KEYS": "fleet_secret"})
    assert broken.exit_code == 2
    assert "FLEET_API_KEYS" in broken.stderr
    assert "fleet_secret" not in broken.stderr
