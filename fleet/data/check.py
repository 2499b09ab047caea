"""``fleet check``: every fault of a whole project at once. Writes nothing and prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fleet.data.lint import lint_fleet, lint_task
from fleet.data.rows import TaskRows, collect_task_rows, condense
from fleet.data.settings import setting_faults
from fleet.errors import Fault, ManifestError, ProjectError
from fleet.manifest import Manifest, schema_is_fresh
from fleet.project import Project

__all__ = ["check_project"]

NEARLY = ("task.yml", "tasks.yaml", "task.json")
"""What a manifest is called by mistake."""


def check_project(
    project: Project,
    *,
    count_tokens: Callable[[str], int] | None = None,
    min_effect: float = 0.05,
    between: Callable[[Mapping[str, tuple[Manifest, TaskRows]]], Iterable[Fault]] = lambda fleet: (),
) -> list[Fault]:
    """Every fault of the manifests, of their rows, and between tasks; errors and warnings.

    ``count_tokens`` counts a text's tokens for the base; without it lengths are estimated.
    ``min_effect`` is the smallest difference that the policy asks the evaluation rows to show.
    ``between`` finds more faults between tasks, whose rows it is given.
    """
    faults = _project_faults(project)
    fleet: dict[str, tuple[Manifest, TaskRows]] = {}
    for name in project.task_names():
        try:
            manifest = project.task(name)
        except (ManifestError, ProjectError) as error:
            here = f"{project.config.tasks}/{name}/task.yaml"
            faults += error.faults or (Fault("bad-task", str(error), here),)
            continue
        faults += [*_adapter_faults(project, manifest), *_budget_faults(project, manifest)]
        rows, unread = collect_task_rows(project.root, manifest)
        found = [*unread, *lint_task(manifest, rows, count_tokens=count_tokens, min_effect=min_effect)]
        # A split that could not be read is not also reported as empty.
        broken = {fault.field for fault in unread} | ({"data.train", "data.eval"} if unread else set())
        faults += [f for f in found if f in unread or f.rule != "empty-split" or f.field not in broken]
        fleet[manifest.task] = (manifest, rows)
    faults += [*lint_fleet(fleet), *between(fleet)]
    return condense(faults)


def _project_faults(project: Project) -> list[Fault]:
    tasks = project.config.tasks
    faults = list(setting_faults(project))
    folder = project.resolve(tasks)
    if not project.task_names():
        rule = "holds no task: make a folder with a task.yaml in it"
        faults.append(Fault("no-tasks", rule, f"{tasks}/"))
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not path.name.startswith((".", "_")) and not (path / "task.yaml").exists():
            here = f"{tasks}/{path.name}"
            near = next((name for name in NEARLY if (path / name).exists()), "")
            mend = f"rename {near}" if near else "write one or remove the folder"
            rule = f"holds no task.yaml: {mend}"
            faults.append(Fault("no-manifest", rule, here))
    schema = folder / "task.schema.json"
    if schema.exists() and not schema_is_fresh(schema):
        rule = "differs from what the manifest's classes say: run fleet schema --write"
        faults.append(Fault("stale-schema", rule, f"{tasks}/{schema.name}"))
    return faults


def _adapter_faults(project: Project, manifest: Manifest) -> list[Fault]:
    first, trunk = manifest.adapter.layers[0], project.config.trunk_layers
    if first >= trunk:
        return []
    message = (
        f"adapts layers below the trunk's {trunk}, so every job costs a second pass from layer {first}: "
        f"begin at {trunk} unless quality needs it"
    )
    here = f"{manifest.folder}/task.yaml"
    return [
        Fault(
            "below-trunk",
            message,
            here,
            manifest.line_of("adapter.layers"),
            "adapter.layers",
            str(first),
            "warning",
        )
    ]


def _budget_faults(project: Project, manifest: Manifest) -> list[Fault]:
    own, everybody = manifest.routing.max_misroute, project.config.routing.max_misroute
    if own is None or own <= everybody:
        return []
    message = (
        f"is above the fleet's {everybody:g}, which holds instead: take it out, or raise "
        "routing.max_misroute in fleet.yaml"
    )
    here, field = f"{manifest.folder}/task.yaml", "routing.max_misroute"
    return [Fault("lax-budget", message, here, manifest.line_of(field), field, f"{own:g}", "warning")]
