from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fleet.cli.invocation import FleetGroup, show_log
from fleet.cli.main import main
from fleet.errors import DataError, Fault, FleetError, RegistryError

HEAVY = (
    "torch",
    "transformers",
    "ray",
    "mlflow",
    "pandas",
    "sklearn",
    "scipy",
    "numpy",
    "pydantic",
    "rich",
    "yaml",
)

LOADED = """
import json, sys
from fleet.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["route", "--help"], ["train-all", "--help"], ["--version"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(ran.stdout.splitlines()[-1]))
    assert "click" in loaded
    assert loaded.isdisjoint(HEAVY)


INTERRUPTED_AT = """
import signal, sys
wanted = sys.argv.pop()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
from {module} import {function}
sys.exit({function}())
"""


@pytest.mark.parametrize("module", ["click", "fleet.cli.main", "fleet.errors", "fleet.cli.versions"])
def test_ctrl_c_while_the_command_line_is_imported(module: str) -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    where, _, function = pyproject["project"]["scripts"]["fleet"].partition(":")
    script = INTERRUPTED_AT.format(module=where, function=function)
    ran = subprocess.run([sys.executable, "-c", script, module], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "Error: interrupted\n")


def test_every_command_has_help_that_fits_its_line() -> None:
    top = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert "..." not in top.partition("Commands:")[2]
    for name in main.commands:
        assert f"\n  {name}" in top
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    ran = CliRunner().invoke(main, ["tran-all"])
    assert ran.exit_code == 2
    assert "Did you mean" in ran.stderr
    assert "train-all" in ran.stderr


def test_outside_of_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEET_ROOT", raising=False)
    ran = CliRunner().invoke(main, ["check"])
    assert ran.exit_code == 2
    assert "fleet init" in ran.stderr
    assert ran.stdout == ""


@click.group(cls=FleetGroup)
@click.option("--debug", is_flag=True)
def group(debug: bool) -> None:
    show_log(debug=debug)


FAULT = Fault("unknown-label", "is no label", "tasks/a/eval.jsonl", 3)
RAISED: dict[str, BaseException] = {
    "input": DataError("rows at fault", [FAULT]),
    "registry": RegistryError("MLflow does not answer"),
    "surprise": ZeroDivisionError("division by zero"),
    "stop": KeyboardInterrupt(),
}


@group.command()
@click.argument("what")
def fail(what: str) -> None:
    raise RAISED[what]


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("input", 2, ["rows at fault", "tasks/a/eval.jsonl:3", "[unknown-label]"]),
        ("registry", FleetError.exit_code, ["MLflow does not answer"]),
        ("surprise", 1, ["ZeroDivisionError: division by zero", "fleet --debug fail"]),
        ("stop", 130, ["interrupted"]),
    ],
)
def test_an_error_is_a_paragraph_and_an_exit_code(what: str, code: int, words: list[str]) -> None:
    ran = CliRunner().invoke(group, ["fail", what], color=True)
    assert ran.exit_code == code
    assert ran.stdout == ""
    assert ran.stderr.startswith("\x1b[31mError: ")
    assert "Traceback" not in ran.stderr
    for word in words:
        assert word in ran.stderr


@pytest.mark.parametrize(("what", "code"), [("input", 2), ("surprise", 1)])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(what: str, code: int) -> None:
    ran = CliRunner().invoke(group, ["--debug", "fail", what])
    assert ran.exit_code == code
    assert "Traceback (most recent call last)" in ran.stderr
    assert "raise RAISED[what]" in ran.stderr
