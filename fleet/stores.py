"""What a project's declarations open: registry, policy, storage, base. Knows no use of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import InputError
from fleet.project import Project
from fleet.registry.policy import Policy, load_policy
from fleet.registry.store import Registry
from fleet.storage import Storage

if TYPE_CHECKING:
    from fleet.engine.base import Base


def open_policy(project: Project) -> Policy:
    return load_policy(project.resolve(project.config.policy), name=project.config.policy)


def open_registry(project: Project, policy: Policy | None = None) -> Registry:
    aliases = (policy or open_policy(project)).aliases
    return Registry(
        project.tracking_uri,
        project.artifact_root,
        fleet=project.config.name,
        champion=aliases.champion,
        challenger=aliases.challenger,
    )


def open_storage(project: Project) -> Storage:
    return Storage(project.storage)


def open_base(project: Project, *, device: str = "cpu") -> Base:
    from fleet.engine.base import load_base  # torch costs seconds that a look at the registry need not pay

    base = load_base(base_folder(project), device=device)
    if project.config.trunk_layers > base.model.config.layers:
        raise InputError(
            f"fleet.yaml: trunk_layers: {project.config.trunk_layers} is more than the base's "
            f"{base.model.config.layers} layers: lower it"
        )
    return base


def base_folder(project: Project) -> Path:
    """The folder of the project's base on this machine, made if need be (minutes, once)."""
    from fleet.engine.base import resolve_base

    return resolve_base(project.config.base, project.cache_dir, root=project.root)


def artifact_cache(project: Project) -> Path:
    """Where fetched artifacts are kept by digest."""
    return project.state / "artifact-cache"
