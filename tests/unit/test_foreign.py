"""A project's own jobs of nobody: read as jobs, and what is wrong with the file is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.errors import DataError
from fleet.foreign import read_foreign
from fleet.project import Project


def project(root: Path, name: str | None = "nobody.jsonl", content: str | None = None) -> Project:
    routing = "" if name is None else f"routing: {{out_of_scope_jobs: {name}}}\n"
    (root / "fleet.yaml").write_text(f"name: mine\n{routing}")
    if content is not None and name is not None:
        (root / name).write_text(content)
    return Project.find(root)


def test_lines_are_jobs_as_for_route(tmp_path: Path) -> None:
    content = '{"text": "sing to me"}\n\n{"id": 7, "fields": {"title": "a", "body": "b"}}\n'
    assert read_foreign(project(tmp_path, content=content)) == [
        {"text": "sing to me"},
        {"title": "a", "body": "b"},
    ]


def test_a_project_without_the_field_has_none(tmp_path: Path) -> None:
    assert read_foreign(project(tmp_path, None)) == []


@pytest.mark.parametrize(
    ("content", "rule", "words"),
    [
        (None, "file-unreadable", "routing.out_of_scope_jobs"),
        ("\n", "file-empty", "holds no job"),
        ('{"text": "good"}\n{"test": "bad"}\nnot json\n', "not-a-job", "line 2: unknown key 'test'"),
        ('{"text": " "}\n', "not-a-job", "line 1: the text is empty"),
        ('{"text": "sing", "task": "songs"}\n', "names-a-task", "got songs"),
        ('{"id": "x", "fields": {"text": "  ", "more": ""}}\n', "not-a-job", "job x: its fields are empty"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str | None, rule: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_foreign(project(tmp_path, content=content))
    assert {fault.rule for fault in caught.value.faults} == {rule}
    assert words in str(caught.value)
    assert "nobody.jsonl" in str(caught.value)


def test_a_file_outside_the_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"routing\.out_of_scope_jobs: it lies outside the project"):
        read_foreign(project(tmp_path, "../elsewhere.jsonl"))
