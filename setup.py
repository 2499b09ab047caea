"""Puts the starter fleet into the wheel: this repository's own, copied while the wheel is built."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

STARTER = ("fleet.yaml", "tasks", "registry")


class BuildWithStarter(build_py):
    """An editable install reads the repository itself (``fleet/cli/starter.py``), so it copies nothing."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self._copy_starter(Path(self.build_lib) / "fleet" / "starter")

    def _copy_starter(self, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in STARTER:
            if Path(name).is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
            else:
                shutil.copy2(name, target / name)


setup(cmdclass={"build_py": BuildWithStarter})
