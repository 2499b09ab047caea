"""The MLflow model folder around an artifact: what makes ``mlflow.pyfunc.load_model`` work.

The artifact itself lies under ``artifacts/<kind>`` byte for byte; the base is named, never copied.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path

from fleet.registry.door import enter


def write_model(
    target: Path, artifact: Path, *, kind: str, fields: Sequence[str], base: str, digest: str
) -> None:
    """Write ``target``, a folder that does not exist yet, in MLflow's model format.

    Only an expert becomes a pyfunc model: a router has no meaning outside a fleet.
    """
    mlflow = enter()
    if kind != "expert":
        shutil.copytree(artifact, target / "artifacts" / kind)
        mlflow.models.Model(metadata={"kind": kind, "digest": digest}).save(str(target / "MLmodel"))
        return
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    # Copies under neutral names: MLflow writes the paths it was given into MLmodel.
    with tempfile.TemporaryDirectory(prefix="fleet-pack-") as scratch:
        shutil.copytree(artifact, Path(scratch) / kind)
        code = Path(scratch) / "pyfunc_expert.py"
        with as_file(files("fleet.registry") / "pyfunc_expert.py") as source:
            shutil.copyfile(source, code)
        with warnings.catch_warnings():
            # MLflow asks for an input example, which would run the expert here.
            warnings.simplefilter("ignore")
            mlflow.pyfunc.save_model(
                str(target),
                python_model=str(code),
                artifacts={kind: str(Path(scratch) / kind)},
                pip_requirements=[f"taskfleet=={version('taskfleet')}"],
                signature=ModelSignature(inputs=Schema([ColSpec("string", name) for name in fields])),
                model_config={"base": base, "cache": "", "digest": digest},
            )
