"""``fleet route --address``: files of jobs through a fleet that is served, runs and replicas that die."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pytest
from click.testing import CliRunner
from click.testing import Result as Ran
from hosting import TEXTS
from pyarrow.parquet import ParquetDataset, write_table
from ray.cluster_utils import Cluster
from waiting import until

from fleet.cli.main import main
from fleet.cluster.bulk import running_replicas
from fleet.cluster.serving import ServeArgs, free_port, serving
from fleet.project import Project
from fleet.whereabouts import announce, only_service
from fleet.workshop import RUSSIAN, Workshop, open_shop

SECONDS = 120.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Workshop:
    made = open_shop(tmp_path_factory.mktemp("fleet"), mlflow_template)
    for kind in ("mood", "story"):
        made.make(kind, kind)
    made.route({"mood": RUSSIAN, "story": TEXTS})
    return made


def route(shop: Workshop, *arguments: object) -> Ran:
    return CliRunner().invoke(main, ["--root", str(shop.place.parent), "route", *map(str, arguments)])


def test_where_no_fleet_is_served_it_says_how_to_serve_one(
    shop: Workshop, ray_cluster: Cluster, tmp_path: Path
) -> None:
    ran = route(
        shop, "--file", jobs(tmp_path, 3), "--output", tmp_path / "out", "--address", ray_cluster.address
    )
    assert ran.exit_code == 1
    assert f"fleet serve --address {ray_cluster.address}" in ran.stderr


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", "--address auto: no service of the fleet in"),
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:1", "a machine of the cluster"),
    ],
)
def test_where_nobody_can_answer_nothing_is_begun(
    shop: Workshop, tmp_path: Path, address: str, said: str
) -> None:
    ran = route(shop, "--file", jobs(tmp_path, 3), "--output", tmp_path / "out", "--address", address)
    assert ran.exit_code in (1, 2)
    assert said in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def address(shop: Workshop, ray_cluster: Cluster) -> Iterator[str]:
    """Of the cluster, with two replicas on a node of their own."""
    node = ray_cluster.add_node(num_cpus=2)
    try:
        args = ServeArgs(root=str(shop.place.parent), replicas=2, poll_seconds=0.2)
        with (
            only_service(Project.find(shop.place.parent)) as place,
            serving(args, host="127.0.0.1", port=(port := free_port("127.0.0.1", 0))),
        ):
            announce(place, f"http://127.0.0.1:{port}", ray_cluster.address)
            until(lambda: running_replicas(ray_cluster.address) == 2)
            yield ray_cluster.address
    finally:
        ray_cluster.remove_node(node)


def jobs(folder: Path, count: int) -> Path:
    path = folder / "jobs.jsonl"
    tasks = ["mood", "story", None]
    lines = [{"id": n, "text": f"{TEXTS[n % 6]} {n}", "task": tasks[n % 3]} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(out.glob("part-*")) for line in path.read_text().splitlines()]


def test_a_file_is_answered_whole_in_order_and_as_by_one_process(
    shop: Workshop, address: str, tmp_path: Path
) -> None:
    path = jobs(tmp_path, 25)
    path.write_bytes(b"\r\n" + path.read_bytes() + b'nonsense\n\n{"text": "x", "task": "nobody"}')
    ran = route(
        shop, "--file", path, "--output", tmp_path / "out", "--address", "auto", "--part-rows", 10, "--json"
    )
    assert ran.exit_code == 2, ran.stderr
    assert "27 of 27 jobs" in ran.stderr
    said = json.loads(ran.stdout)
    assert (said["rows"], said["bad_jobs"], said["failed"]) == (27, 2, 0)
    assert said["jobs_per_second"] > 0
    alone = tmp_path / "alone.jsonl"
    assert route(shop, "--file", path, "--output", alone).exit_code == 2
    expected = [json.loads(line) for line in alone.read_text().splitlines()]
    found = results(tmp_path / "out")
    assert [(r["id"], r["job"], r["error"]) for r in found] == [
        (r["id"], r["job"], r["error"]) for r in expected
    ]
    assert [[a["text"] for a in r["answers"]] for r in found] == [
        [a["text"] for a in r["answers"]] for r in expected
    ]
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [name for name in files if not name.startswith(("_", "."))] == [
        f"part-0000{n}.jsonl" for n in range(3)
    ]
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())["rows"] == 27


def test_a_run_that_is_killed_is_gone_on_with_and_no_row_is_lost_or_doubled(
    shop: Workshop, address: str, tmp_path: Path
) -> None:
    path, out = jobs(tmp_path, 200), tmp_path / "out"
    options = ["--file", path, "--output", out, "--address", address, "--part-rows", 10, "--in-flight", 4]
    code = "from fleet.cli.entry import run; run()"
    command = [sys.executable, "-c", code, "--root", str(shop.place.parent), "route", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        until(lambda: len(list(out.glob("part-*"))) >= 2 or run.poll() is not None)
        run.kill()
    before = {part: part.read_bytes() for part in out.glob("part-*")}
    assert 2 <= len(before) < 20
    assert not (out / "_SUCCESS").exists()
    ran = route(shop, *options)
    assert ran.exit_code == 0, ran.stderr
    assert {part: part.read_bytes() for part in before} == before
    assert [result["id"] for result in results(out)] == [str(n) for n in range(200)]
    assert {result["error"] for result in results(out)} == {None}
    assert (out / "_SUCCESS").exists()
    again = route(shop, *options)
    assert again.exit_code == 0
    assert "jobs/s" not in again.stdout


def test_jobs_of_a_replica_that_is_killed_are_answered_by_another(
    shop: Workshop, address: str, ray_cluster: Cluster, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        options = ["--file", jobs(tmp_path, 200), "--output", out, "--address", address, "--part-rows", 20]
        running = pool.submit(route, shop, *options)
        until(lambda: any(out.glob("part-*")) or running.done())
        assert not running.done()
        replicas(ray_cluster)[0].kill()
        ran = running.result(SECONDS)
    assert ran.exit_code == 0, ran.stderr
    assert [result["id"] for result in results(out)] == [str(n) for n in range(200)]


def replicas(cluster: Cluster) -> list[psutil.Process]:
    """The processes that answer, on this cluster and on no other of this machine."""
    raylets = [
        psutil.Process(node.all_processes["raylet"][0].process.pid) for node in cluster.list_all_nodes()
    ]
    below = [process for raylet in raylets for process in raylet.children(recursive=True)]
    return [p for p in below if " ".join(p.cmdline()).startswith("ray::ServeReplica:taskfleet:host")]


def test_parquet_in_gives_parquet_out(shop: Workshop, address: str, tmp_path: Path) -> None:
    columns = {"id": list(range(30)), "text": TEXTS * 5, "task": ["mood"] * 30}
    write_table(pyarrow.table(columns), tmp_path / "jobs.parquet", row_group_size=8)
    out = tmp_path / "out"
    ran = route(
        shop, "--file", tmp_path / "jobs.parquet", "--output", out, "--address", address, "--part-rows", 12
    )
    assert ran.exit_code == 0, ran.stderr
    rows = ParquetDataset(out).read().to_pylist()
    assert [row["id"] for row in rows] == [str(n) for n in range(30)]
    assert {row["task"] for row in rows} == {"mood"}
    assert [json.loads(row["result"])["answers"][0]["text"] for row in rows] == [
        row["answer"] for row in rows
    ]
