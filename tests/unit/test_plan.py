from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.assignment import Assignment, assign
from fleet.cluster.plan import COHORT_TASKS, Node, Plan, Resources, estimated_tokens, plan
from fleet.data.rows import Row, TaskRows
from fleet.errors import ClusterError
from fleet.manifest import Manifest

TWO_CORES = Resources((Node(2),))


def assignment(
    task: str, rows: int = 1, layers: tuple[int, int] = (6, 18), method: str = "lora"
) -> Assignment:
    manifest = Manifest.model_validate(
        {
            "task": task,
            "description": "A task.",
            "kind": "classification",
            "labels": ["yes", "no"],
            "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
            "adapter": {"layers": list(layers), "method": method},
        }
    )
    train = [Row({"text": "a few words of text"}, "yes", "train.jsonl", line) for line in range(rows)]
    return assign(manifest, TaskRows(train=train, eval=[], digest="d"), "base")


fleets = st.lists(
    st.tuples(
        st.integers(0, 30), st.sampled_from([(0, 18), (6, 18), (9, 18)]), st.sampled_from(["lora", "full"])
    ),
    min_size=1,
    max_size=24,
).map(lambda tasks: [assignment(f"task-{i}", *task) for i, task in enumerate(tasks)])
machines = st.lists(
    st.tuples(st.integers(1, 32), st.integers(0, 4)).map(lambda n: Node(*map(float, n))),
    min_size=1,
    max_size=5,
).map(lambda nodes: Resources(tuple(nodes)))


def names(planned: Plan) -> list[str]:
    return [task for cohort in planned.cohorts for task in cohort.tasks]


@given(fleets, machines, st.none() | st.integers(1, 8), st.none() | st.integers(1, 8))
def test_every_assignment_is_planned_once_and_fits_a_machine(
    fleet: list[Assignment], resources: Resources, workers: int | None, threads: int | None
) -> None:
    planned = plan(fleet, resources, workers=workers, threads=threads)
    assert sorted(names(planned)) == sorted(a.task for a in fleet)
    assert 1 <= planned.workers <= len(planned.cohorts)
    for cohort in planned.cohorts:
        assert any(node.cpus >= cohort.cpus and node.gpus >= cohort.gpus for node in resources.nodes)
        assert 1 <= cohort.threads <= max(cohort.cpus, 1)
        assert len(cohort.assignments) <= (COHORT_TASKS if cohort.gpus else 1)
        assert len({a.manifest["adapter"]["layers"][0] for a in cohort.assignments}) == 1
        if any(a.manifest["adapter"]["method"] == "full" for a in cohort.assignments):
            assert len(cohort.assignments) == 1
    if workers is None:
        running = planned.cohorts[: planned.workers]
        assert sum(c.gpus for c in running) <= sum(node.gpus for node in resources.nodes)
        assert sum(c.cpus for c in running) <= sum(node.cpus for node in resources.nodes)
    totals = [sum(map(estimated_tokens, cohort.assignments)) for cohort in planned.cohorts]
    assert totals == sorted(totals, reverse=True)


def test_two_cores_train_one_task_at_a_time_with_both() -> None:
    planned = plan([assignment("short", 2), assignment("long", 9)], TWO_CORES)
    assert (names(planned), planned.workers) == (["long", "short"], 1)
    assert {(c.cpus, c.threads, c.gpus) for c in planned.cohorts} == {(2.0, 2, 0.0)}


def test_a_full_training_takes_longer_than_the_same_rows_for_lora() -> None:
    tasks = [assignment("low", 5), assignment("whole", 4, method="full")]
    assert names(plan(tasks, TWO_CORES)) == ["whole", "low"]


def test_two_workers_share_two_cores() -> None:
    planned = plan([assignment("one"), assignment("two")], TWO_CORES, workers=2)
    assert planned.workers == 2
    assert {(c.cpus, c.threads) for c in planned.cohorts} == {(1.0, 1)}


def test_one_task_has_the_threads_that_it_has_in_company() -> None:
    resources = Resources((Node(16),))
    alone, many = (plan([assignment(f"t{i}") for i in range(n)], resources) for n in (1, 8))
    assert alone.cohorts[0].threads == many.cohorts[0].threads


def test_a_gpu_takes_eight_tasks_in_one_cohort() -> None:
    planned = plan([assignment(f"t{i}") for i in range(8)], Resources((Node(16, 1),)))
    assert [len(c.assignments) for c in planned.cohorts] == [8]
    assert planned.cohorts[0].gpus == 1.0


def test_cohorts_share_gpus_by_fractions() -> None:
    planned = plan([assignment(f"t{i}") for i in range(32)], Resources((Node(16, 2), Node(4))))
    assert [c.gpus for c in planned.cohorts] == [0.5] * 4
    assert planned.workers == 4


def test_nothing_to_do_needs_no_machine() -> None:
    assert plan([], Resources(())) == Plan((), 0)


def test_no_machine_is_an_error_unless_workers_are_asked_for() -> None:
    with pytest.raises(ClusterError, match="start a worker node"):
        plan([assignment("one")], Resources((Node(0),)))
    planned = plan([assignment("one"), assignment("two")], Resources((Node(0),)), workers=2)
    assert (planned.workers, planned.cohorts[0].cpus) == (2, 2.0)
