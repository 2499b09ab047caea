"""A router on disk: ``router.safetensors`` and ``router.json``; never pickle. Knows nothing of registries.

The same router gives the same bytes. The linear map and the thresholds are stored beside the evidence
they come from, so that what decides after loading is bit for bit what was fitted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fleet.engine.digest import folder_digest
from fleet.errors import ArtifactError, DigestError
from fleet.routing.calibrate import Thresholds
from fleet.routing.discriminant import Discriminant
from fleet.routing.evidence import Evidence
from fleet.routing.features import Frame
from fleet.routing.head import Ground, Router

__all__ = ["load_router", "save_router"]

CARD_FILE = "router.json"
TENSOR_FILE = "router.safetensors"
FORMAT = 1


def save_router(folder: Path, router: Router) -> str:
    """Write into an empty folder; its content digest. The card, written last, marks it whole."""
    folder.mkdir(parents=True, exist_ok=True)
    ground = router.ground
    tensors: dict[str, NDArray[Any]] = {
        "frame.centre": ground.frame.centre,
        "frame.spread": ground.frame.spread,
        "frame.blank": ground.frame.blank,
        "background": ground.rows,
        "map.weights": router.discriminant.weights,
        "map.bias": router.discriminant.bias,
        **{f"task.{name}": each.rows for name, each in router.evidence.items()},
    }
    save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, folder / TENSOR_FILE)
    thresholds = router.thresholds
    card = {
        "format": FORMAT,
        "base_fingerprint": ground.base_fingerprint,
        "taps": list(ground.taps),
        "background": {"digest": ground.digest, "groups": list(ground.groups)},
        "thresholds": {
            "fit": thresholds.fit,
            "probability": thresholds.probability,
            "temperature": thresholds.temperature,
            "origin": thresholds.origin,
        },
        "metrics": dict(router.metrics),
        "tasks": {
            name: {
                "data_digest": each.digest,
                "rows": [
                    list(row) for row in zip(each.kinds, each.folds, each.sources, each.snippets, strict=True)
                ],
            }
            for name, each in router.evidence.items()
        },
    }
    (folder / CARD_FILE).write_text(
        json.dumps(card, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )
    return folder_digest(folder)


def load_router(folder: Path, *, digest: str | None = None) -> Router:
    """Read a router; with ``digest`` only if its bytes are those.

    Raises ``DigestError`` for other bytes, ``ArtifactError`` for what cannot be read or is not whole.
    """
    if digest is not None and (found := folder_digest(folder)) != digest:
        raise DigestError(
            f"the router in {folder.name} was altered: its digest is {found[:12]}, registered was "
            f"{digest[:12]}; promote another version or fit it again (fleet router fit)"
        )
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            raise ValueError(f"this release reads format {FORMAT}")
        return _router(card, load_file(folder / TENSOR_FILE))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"the router in {folder.name} cannot be used ({error}): fit it again (fleet router fit)"
        ) from error


def _router(card: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Router:
    width = len(tensors["frame.centre"])
    names = tuple(sorted(card["tasks"]))

    def take(name: str, dtype: type[np.floating], *shape: int | None) -> NDArray[Any]:
        tensor = tensors[name]
        fits = len(tensor.shape) == len(shape) and all(
            want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        )
        if tensor.dtype != dtype or not fits or not np.isfinite(tensor).all():
            raise ValueError(f"tensor {name} is {tensor.dtype} {list(tensor.shape)}, or not finite")
        return tensor

    groups = tuple(map(str, card["background"]["groups"]))
    ground = Ground(
        str(card["base_fingerprint"]),
        tuple(map(int, card["taps"])),
        Frame(*(take(f"frame.{part}", np.float32, width) for part in ("centre", "spread", "blank"))),
        take("background", np.float16, len(groups), width),
        groups,
        str(card["background"]["digest"]),
    )
    evidence = {}
    for name in names:
        kinds, folds, sources, snippets = zip(*card["tasks"][name]["rows"], strict=True)
        rows = take(f"task.{name}", np.float16, len(kinds), width)
        evidence[name] = Evidence(card["tasks"][name]["data_digest"], rows, kinds, folds, snippets, sources)
    if not names:
        raise ValueError("it knows no task")
    return Router(
        ground,
        evidence,
        Discriminant(
            names,
            take("map.weights", np.float32, len(names), width),
            take("map.bias", np.float32, len(names)),
        ),
        Thresholds(**card["thresholds"]),
        dict(card["metrics"]),
    )
