"""A file in parts, and the folder of its results, without anybody who answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import read_table, write_table

from fleet.bulk import source
from fleet.bulk.folder import BulkFolder, open_folder
from fleet.bulk.results import Tally, encode, tally_of
from fleet.bulk.source import Kind, cut, kind_of, read_part
from fleet.cluster.bulk import may_pass
from fleet.errors import InputError
from fleet.job import Answer, FaultCode, Job, Receipt, Result
from fleet.lines import MAX_LINE, Line, read_lines, result_line
from fleet.routing.decision import Decision

LINES = st.lists(
    st.one_of(
        st.sampled_from([b"", b" ", b"\r", b"\t \r", b"nonsense", b"\xff\xfe", b"\xef\xbb\xbf"]),
        st.text(max_size=40).map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()),
        st.text(max_size=40).map(lambda text: json.dumps({"text": text}).encode() + b"\r"),
        st.binary(max_size=30).filter(lambda raw: b"\n" not in raw),
    ),
    max_size=60,
)


def whole(path: Path, kind: Kind, rows: int) -> list[Line]:
    parts = cut(path, kind, rows).parts
    assert [part.number for part in parts] == list(range(len(parts)))
    return [line for part in parts for line in read_part(path, kind, part, None)]


@given(LINES, st.integers(1, 20), st.booleans())
def test_parts_hold_every_line_once_and_in_order_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], rows: int, ended: bool
) -> None:
    path = tmp_path_factory.mktemp("cut") / "jobs.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * ended)
    with path.open("rb") as stream:
        assert whole(path, "jsonl", rows) == list(read_lines(stream))
    parts = cut(path, "jsonl", rows).parts
    assert all(part.rows == rows for part in parts[:-1])
    assert all(one.end == other.start for one, other in pairwise(parts))


def test_a_line_without_end_is_skipped_and_a_part_of_long_lines_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + b"x" * (3 * MAX_LINE) + b"\n\n" + b'{"text": "b"}\n' * 3)
    monkeypatch.setattr(source, "PART_BYTES", MAX_LINE)
    assert [part.rows for part in cut(path, "jsonl", 10).parts] == [2, 3]
    read = whole(path, "jsonl", 10)
    assert [line.id for line in read] == ["1", "2", "4", "5", "6"]
    assert "line 2: is longer than" in read[1].error


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"text": "a"}\n' * 9)
    (part,) = cut(path, "jsonl", 10).parts
    path.write_text('{"text": "a"}\n' * 4)
    with pytest.raises(InputError, match="changed while it was read"):
        read_part(path, "jsonl", part, None)


def table(path: Path, columns: dict[str, Any], group: int = 7) -> Path:
    write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 15))
def test_parts_of_parquet_hold_every_row_once_whatever_its_groups_are(
    tmp_path_factory: pytest.TempPathFactory, count: int, rows: int, group: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "jobs"
    texts = pyarrow.array([f"job {n}" for n in range(count)], pyarrow.string())
    table(path, {"text": texts}, group)
    assert kind_of(path) == "parquet"
    assert [line.job for line in whole(path, "parquet", rows)] == [
        Job(str(n + 1), text=f"job {n}") for n in range(count)
    ]


def test_a_part_of_long_rows_ends_early_and_no_part_holds_more_than_a_row_beyond_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [10] * 30 + [5_000] * 7 + [10] * 30 + [20_000]
    texts = [f"{n:03d}{'x' * length}" for n, length in enumerate(lengths)]
    path = table(tmp_path / "jobs", {"text": texts}, group=25)
    monkeypatch.setattr(source, "PART_BYTES", 12_000)
    parts = cut(path, "parquet", 40).parts
    assert [part.rows for part in parts] == [33, 3, 32]
    assert [line.job for line in whole(path, "parquet", 40)] == [
        Job(str(n), text=text) for n, text in enumerate(texts, 1)
    ]
    monkeypatch.setattr(source, "PART_BYTES", 1)
    assert {part.rows for part in cut(path, "parquet", 40).parts} == {1}


def test_a_row_is_the_job_that_its_line_would_be(tmp_path: Path) -> None:
    fields = [None, None, {"subject": "a", "body": None}, {"subject": None, "body": None}]
    columns = {"id": [7, None, 8, 9], "text": ["a", " ", None, None], "task": [None, "x", None, None]}
    lines = whole(table(tmp_path / "jobs", {**columns, "fields": fields}), "parquet", 3)
    assert [line.job for line in lines] == [
        Job("7", text="a"),
        None,
        Job("8", fields={"subject": "a"}),
        None,
    ]
    assert lines[1].error.startswith("row 2: the text is empty")
    mapped = pyarrow.array([[("a", "b")]], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    (line,) = whole(table(tmp_path / "map", {"fields": mapped}), "parquet", 3)
    assert line.job == Job("1", fields={"a": "b"})
    (line,) = whole(table(tmp_path / "binary", {"text": [b"a"]}), "parquet", 3)
    assert line.error == "row 1: text should be text"


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"txt": ["a"]}, "columns txt"), ({"text": ["a"], "price": [1]}, "price"), ({"id": ["a"]}, "text or")],
)
def test_parquet_that_holds_no_jobs_is_refused_at_once(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        cut(table(tmp_path / "jobs", columns), "parquet", 10)


@pytest.mark.parametrize(("content", "words"), [(b"\x1f\x8b\x08", "compressed"), (b"PAR1", "no Parquet")])
def test_what_cannot_be_cut_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        cut(path, kind_of(path), 10)


def results() -> list[dict[str, Any]]:
    """One of each kind."""
    receipt = Receipt("mood", 3, "d", "b", 2, "route", 0.9, 7, 1, "bf16", {})
    routed = Decision(kind="route", task="mood", tasks=(), confidence=0.9, fit=1.0, reason="clear")
    nobody = Decision(kind="abstain", task=None, tasks=(), confidence=0.1, fit=-9.0, reason="nothing like it")
    job = Job("x", text="x")
    return [
        result_line(
            Line("a", "1", job), Result("a", routed, (Answer("mood", "schön", "schön", 0.8, False, receipt),))
        ),
        result_line(Line("b", "2", job), Result("b", nobody)),
        result_line(Line("c", "3", None, "line 3: no"), None),
        result_line(
            Line("d", "4", job), Result("d", routed, error="mood is quarantined", code="quarantined")
        ),
    ]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_results_are_written_and_counted_again(tmp_path: Path, form: Kind) -> None:
    path = tmp_path / "part"
    path.write_bytes(encode(results(), form))
    assert tally_of(path, form) == Tally.of(results()) == Tally(1, 1, 1, 1)
    assert Tally(1, 1, 1, 1).exit_code == 1
    assert Tally(1, 1, 1).exit_code == 2
    assert Tally(1, 1).exit_code == 0
    if form == "parquet":
        rows = read_table(path).to_pylist()
        assert rows[0]["answer"] == "schön"
        assert (rows[0]["task"], rows[0]["version"], rows[1]["decision"]) == ("mood", 3, "abstain")
        assert [json.loads(row["result"]) for row in rows] == results()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"."):
        tally_of(path, form)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps({"text": f"job {n}"}) + "\n" for n in range(10)))
    return path


@contextmanager
def opened(
    jobs: Path, *, rows: int = 4, top: int = 1, form: Kind | None = None, every: bool = False
) -> Iterator[BulkFolder]:
    out = jobs.parent / "out"
    with open_folder(out, jobs, task=None, top=top, part_rows=rows, form=form, every=every) as folder:
        yield folder


def parts_there(folder: BulkFolder) -> list[int]:
    return [part.number for part, _ in folder.done()]


def write(folder: BulkFolder, number: int) -> None:
    part = folder.cut.parts[number]
    lines = read_part(folder.source, folder.kind, part, None)
    folder.publish(part, encode([result_line(line, None) for line in lines], folder.options.format))


def test_a_folder_is_gone_on_with_where_it_was_left(jobs: Path) -> None:
    with opened(jobs) as folder:
        assert parts_there(folder) == []
        write(folder, 2)
        (folder.path / ".part-00000.jsonl.new").write_bytes(b"half a res")
    with opened(jobs) as folder:
        assert parts_there(folder) == [2]
        assert not list(folder.path.glob(".*.new"))
        write(folder, 0)
        write(folder, 1)
        folder.succeed(Tally(10))
    said = json.loads((jobs.parent / "out" / "_SUCCESS").read_bytes())
    assert (said["rows"], said["answered"], said["parts"]) == (10, 10, 3)


def test_another_input_is_refused_even_of_the_same_size_and_time(jobs: Path) -> None:
    with opened(jobs):
        pass
    before = jobs.stat()
    content = jobs.read_bytes()
    jobs.write_bytes(content.replace(b"job 3", b"job X"))
    os.utime(jobs, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="results of another file"), opened(jobs):
        pass
    jobs.write_bytes(content + b"\n")
    with pytest.raises(InputError, match="results of another file"), opened(jobs):
        pass
    jobs.write_bytes(content)  # the same again, written later
    with opened(jobs):
        pass


def test_other_options_are_refused_by_name(jobs: Path) -> None:
    with opened(jobs):
        pass
    said = r"--top was 1 and is 2 now; --part-rows was 4 and is 5 now"
    with pytest.raises(InputError, match=said), opened(jobs, top=2, rows=5):
        pass
    with (
        pytest.raises(InputError, match=r"--format was jsonl and is parquet now"),
        opened(jobs, form="parquet"),
    ):
        pass
    with pytest.raises(InputError, match=r"--all was not given and is given now"), opened(jobs, every=True):
        pass


def test_all_is_of_every_row_or_of_those_that_say_so(jobs: Path) -> None:
    table = jobs.parent / "jobs.parquet"
    write_table(pyarrow.table({"text": ["a", "b", "c"], "all": [None, True, False]}), table)
    jobs.write_text('{"text": "a"}\n{"text": "b", "all": true}\n{"text": "c", "all": false}\n')
    for path, kind in ((jobs, "jsonl"), (table, "parquet")):
        (part,) = cut(path, kind, 10).parts
        for every, wanted in ((False, [False, True, False]), (True, [True, True, False])):
            lines = read_part(path, kind, part, None, every=every)
            assert [line.job.all for line in lines if line.job] == wanted, (kind, every)


def test_only_one_run_at_a_time_writes_into_a_folder(jobs: Path) -> None:
    with opened(jobs), pytest.raises(InputError, match="another run writes there"), opened(jobs):
        pass


def test_a_folder_of_something_else_is_left_alone(jobs: Path) -> None:
    out = jobs.parent / "out"
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(InputError, match=r"other things \(precious\)"), opened(jobs):
        pass
    assert [path.name for path in out.iterdir()] == ["precious"]
    (out / "precious").rename(out / "_bulk.json")
    with pytest.raises(InputError, match="of no release"), opened(jobs):
        pass


@pytest.mark.parametrize("kept", [0, 10, -1, -20])
def test_a_part_that_somebody_has_cut_is_named(jobs: Path, kept: int) -> None:
    with opened(jobs) as folder:
        write(folder, 0)
        path = folder.file_of(folder.cut.parts[0])
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept] if kept < -1 else lines[0][:kept])
        with pytest.raises(InputError, match=r"part-00000\.jsonl was changed by somebody"):
            list(folder.done())


def test_a_file_that_was_changed_meanwhile_is_no_success(jobs: Path) -> None:
    with opened(jobs) as folder:
        jobs.write_bytes(jobs.read_bytes() + b'{"text": "one more"}\n')
        with pytest.raises(InputError, match="changed while it was read"):
            folder.succeed(Tally(10))
    assert not (jobs.parent / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("code", "codes", "again"),
    [
        (None, {}, False),
        ("bad-job", {"mood": "bad-job"}, False),
        ("overloaded", {}, True),
        (None, {"story": "overloaded"}, True),  # its first expert has answered
        ("quarantined", {"mood": "quarantined"}, False),
    ],
)
def test_a_job_is_sent_again_when_any_of_its_experts_may_answer_yet(
    code: FaultCode | None, codes: dict[str, FaultCode], again: bool
) -> None:
    assert may_pass(Result("1", None, code=code, failed_codes=codes)) is again
