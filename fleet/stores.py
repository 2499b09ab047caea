"""What a project's declarations open: registry, policy, storage, base. Knows nothing of what is done there."""

from __future__ import annotations

from pathlib import Path

from fleet.engine.base import Base, load_base, resolve_base
from fleet.project import Project
from fleet.registry.policy import Policy, load_policy
from fleet.registry.store import Registry
from fleet.storage import Storage


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
    return load_base(base_folder(project), device=device)


def base_folder(project: Project) -> Path:
    """The folder of the project's base on this machine, made if need be (minutes, once)."""
    return resolve_base(project.config.base, project.cache_dir, root=project.root)


def artifact_cache(project: Project) -> Path:
    """Where fetched artifacts are kept by digest."""
    return project.state / "artifact-cache"
