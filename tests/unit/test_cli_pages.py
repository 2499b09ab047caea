from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.cli.field_pages import field_pages
from fleet.cli.help_pages import help_pages
from fleet.cli.help_pages import main as pages
from fleet.cli.main import main
from fleet.manifest import manifest_schema


def test_help_pages_are_written_checked_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = CliRunner().invoke(pages, ["--check"])
    assert missing.exit_code == 2
    assert "help_pages --write" in missing.stderr
    assert CliRunner().invoke(pages, ["--write"]).exit_code == 0
    assert CliRunner().invoke(pages, ["--check"]).exit_code == 0
    page = tmp_path / "docs/help.md"
    for name in (*main.commands, "router fit"):
        assert f"\n## fleet {name}\n" in page.read_text()
    fields = tmp_path / "docs/fields.md"
    for name in ("**data**", "adapter.rank", "tracking_uri", "gate.min_effect"):
        assert f"| {name} |" in fields.read_text()
    for file in (page, fields):
        fresh = file.read_text()
        file.write_text(fresh + "a word of mine\n")
        stale = CliRunner().invoke(pages, ["--check"])
        assert stale.exit_code == 2
        assert file.name in stale.stderr
        file.write_text(fresh)


def test_every_field_is_described() -> None:
    rows = [line for line in field_pages().splitlines() if line.startswith("| ")]
    assert len(rows) > 50
    assert all(row.rpartition(" | ")[2].strip(" |") for row in rows)
    schema = manifest_schema()
    assert all("description" in field for field in schema["properties"].values())


def test_help_pages_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = help_pages()
    monkeypatch.setenv("COLUMNS", "40")
    assert help_pages() == wide


def test_the_manifest_schema_is_printed_written_and_checked(tmp_path: Path) -> None:
    def schema(*arguments: str) -> tuple[int, str]:
        ran = CliRunner().invoke(main, ["--root", str(tmp_path), "schema", *arguments])
        return ran.exit_code, ran.stdout + ran.stderr

    (tmp_path / "fleet.yaml").write_text("name: small\n")
    (tmp_path / "tasks").mkdir()
    assert json.loads(schema()[1]) == manifest_schema()
    code, said = schema("--check")
    assert code == 2
    assert "fleet schema --write" in said
    assert schema("--write")[0] == 0
    assert schema("--check")[0] == 0
