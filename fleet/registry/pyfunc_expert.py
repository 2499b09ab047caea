"""The script that MLflow copies beside an expert and runs in ``mlflow.pyfunc.load_model``.

It only names the class, so an old version is answered by the installed package and not by a
stale copy of its code.
"""

from __future__ import annotations

from mlflow.models import set_model

from fleet.registry.pyfunc_model import ExpertModel

set_model(ExpertModel())
