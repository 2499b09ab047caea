from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from fleet.cli.starter import SHARED, starter_folder, starter_tasks

SOURCES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "fleet.yaml",
    "fleet",
    "tasks",
    "registry",
)


def test_the_wheel_carries_the_starter_fleet_and_can_copy_it(tmp_path: Path) -> None:
    repository = starter_folder()
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        path = repository / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copyfile(path, source / name)
    build = [sys.executable, "-c", "from setuptools import build_meta as b; b.build_wheel('dist')"]
    built = subprocess.run(build, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    for file in ("fleet.yaml", *SHARED, *(f"tasks/{task}/task.yaml" for task in starter_tasks())):
        assert (site / "fleet/starter" / file).read_bytes() == (repository / file).read_bytes()
    for path in (repository / "fleet").rglob("*.*"):
        if "__pycache__" not in path.parts:
            assert (site / path.relative_to(repository)).is_file(), "a file of the package is not packaged"

    # What is installed copies it without the repository.
    script = "from pathlib import Path; from fleet.cli.starter import copy_starter; import fleet\n"
    script += "assert 'site' in fleet.__file__; print(*copy_starter(Path('mine'), []))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{script}"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == starter_tasks()
    assert (tmp_path / "mine/tasks/sentiment/train.jsonl").is_file()
