"""A full adapter: an expert's own weights of the base's upper layers. Knows nothing of slots or tasks.

On disk: one bf16 safetensors file under transformers' own names, so that ``load_state_dict(strict=False)``
puts it over the base, and a small JSON that says what it is; never pickle. The embedding is the base's,
shared and frozen, and is not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fleet.engine.gemma import FINAL_NORM, Gemma, weight_name
from fleet.engine.gemma_config import GemmaConfig
from fleet.engine.precision import stored
from fleet.engine.specs import FullSpec
from fleet.engine.tensor_check import check_tensors
from fleet.errors import ArtifactError

WEIGHTS_FILE = "body.safetensors"
CONFIG_FILE = "body.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Body:
    """One expert's layers by transformers' names: projections ``[out, in]``, norms ``[size]``."""

    full: FullSpec
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Gemma, full: FullSpec) -> Body:
        """The base's own layers, which a training starts from; nothing is copied."""
        return cls(full, model.own_weights(full.layers))

    def as_stored(self) -> Body:
        """What its files hold."""
        return Body(self.full, stored(self.tensors))

    def check(self, config: GemmaConfig) -> None:
        """Raise ``ArtifactError`` unless every weight is there, fits the base and is finite."""
        first, last = self.full.layers
        if last > config.layers:
            raise ArtifactError(
                f"the adapter acts on layers {[first, last]}, the base has {config.layers}: "
                "it was trained for another base"
            )
        wanted = {
            weight_name(layer, name): shape
            for layer in range(first, last)
            for name, shape in config.layer_shapes().items()
        }
        if last == config.layers:
            wanted[FINAL_NORM] = (config.hidden,)
        check_tensors(self.tensors, wanted)


def save_body(folder: Path, body: Body, base_name: str) -> None:
    """Write the two files into a folder that exists; bf16, which is what serves it."""
    save_file(stored(body.tensors), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {"format": FORMAT, "layers": list(body.full.layers), "base_model_name_or_path": base_name}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def is_body(folder: Path) -> bool:
    """Whether an artifact's folder holds a full adapter, whole or damaged."""
    return (folder / CONFIG_FILE).exists() or (folder / WEIGHTS_FILE).exists()


def load_body(folder: Path) -> Body:
    """Read the two files; tensors as stored, in memory of their own.

    Raises ``ArtifactError`` for missing or damaged files and for other formats.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        if config["format"] != FORMAT:
            raise ValueError(f"it has format {config['format']}, this release reads {FORMAT}")
        first, last = (int(layer) for layer in config["layers"])
        full = FullSpec((first, last))
        # Not mapped: what was checked must not change under a running host when the file does.
        tensors = {name: t.clone() for name, t in load_file(folder / WEIGHTS_FILE).items()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(f"{folder.name}: the adapter cannot be read: {error!r}") from error
    return Body(full, tensors)
