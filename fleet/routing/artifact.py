"""A router on disk: ``router.safetensors`` and ``router.json``; never pickle. Knows nothing of registries.

The same router gives the same bytes. The maps and the thresholds are stored beside the evidence
they come from, so that what decides after loading is bit for bit what was fitted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from fleet.engine.digest import folder_digest
from fleet.errors import ArtifactError, DigestError
from fleet.routing.budget import Budget, Thresholds
from fleet.routing.calibrate import Scale
from fleet.routing.compound import Compounds
from fleet.routing.discriminant import Discriminant
from fleet.routing.evidence import EXAMPLE, FOLDS, INPUT, Changes, Evidence
from fleet.routing.features import LIMIT, POOLS, Bytes, Frame
from fleet.routing.head import Ground, Router
from fleet.routing.lexical import BUCKETS, Lexicon
from fleet.routing.report import Fare
from fleet.routing.span import Span
from fleet.routing.stability import WAYS
from fleet.routing.statistics import Corpus

__all__ = ["load_router", "save_router"]

CARD_FILE = "router.json"
TENSOR_FILE = "router.safetensors"
FORMAT = 3


def save_router(folder: Path, router: Router) -> str:
    """Write into an empty folder; its content digest. The card, written last, marks it whole."""
    folder.mkdir(parents=True, exist_ok=True)
    ground = router.ground
    tensors: dict[str, NDArray[Any]] = {
        "frame.centre": ground.frame.centre,
        "frame.spread": ground.frame.spread,
        "frame.blank": ground.frame.blank,
        "background.rows": ground.corpus.rows,
        "background.folds": ground.corpus.folds,
        "map.weights": router.dense.weights,
        "map.bias": router.dense.bias,
        "letters.unseen": router.lexicon.unseen,
        **_sparse("background.grams", ground.corpus.grams),
        **_sparse("letters.weights", router.lexicon.weights.T.tocsr(), values=True),
    }
    for name, each in router.evidence.items():
        tensors[f"task.{name}.rows"] = each.rows
        tensors[f"task.{name}.tokens"] = each.tokens
        tensors.update(_sparse(f"task.{name}.grams", each.grams))
        if each.changes is not None:
            tensors[f"task.{name}.changes.rows"] = each.changes.rows
            tensors[f"task.{name}.changes.origins"] = each.changes.origins
            tensors[f"task.{name}.changes.ways"] = each.changes.ways
            tensors.update(_sparse(f"task.{name}.changes.grams", each.changes.grams))
    if router.compounds is not None:
        tensors["compound.weights"], tensors["compound.bias"] = (
            router.compounds.weights,
            router.compounds.bias,
        )
    save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, folder / TENSOR_FILE)
    card = {
        "format": FORMAT,
        "base_fingerprint": ground.base_fingerprint,
        "taps": list(ground.taps),
        "blocks": ground.frame.blocks,
        "background": ground.digest,
        "own": {"rows": ground.corpus.own, "digest": ground.own_digest},
        "budget": asdict(router.budget),
        "scale": asdict(router.scale),
        "thresholds": asdict(router.thresholds),
        "metrics": dict(router.metrics),
        "compound": router.compounds and {"tasks": list(router.compounds.tasks), "bar": router.compounds.bar},
        "tasks": {
            name: {
                "data_digest": each.digest,
                "languages": dict(each.languages),
                "fare": asdict(router.fares[name]),
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
        text = (folder / CARD_FILE).read_bytes()
        if (found_format := _Format.model_validate_json(text).format) != FORMAT:
            raise ValueError(f"it has format {found_format}, this release reads {FORMAT}")
        return _router(_Card.model_validate_json(text), load_file(folder / TENSOR_FILE))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{CARD_FILE}, {'.'.join(map(str, first['loc'])) or 'whole'}: {first['msg']}"
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        reason = str(error)
    raise ArtifactError(
        f"the router in {folder.name} cannot be used ({reason}): fit it again (fleet router fit)"
    )


class _Format(BaseModel):
    format: int


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


_Kind = Annotated[int, Field(ge=INPUT, le=EXAMPLE)]
_Fold = Annotated[int, Field(ge=0, lt=FOLDS)]


class _Task(_Part):
    data_digest: str
    languages: dict[str, Annotated[int, Field(ge=1)]]
    fare: Fare
    rows: list[tuple[_Kind, _Fold, str, str]] = Field(min_length=1)
    """Kind, fold, source, snippet."""


class _Own(_Part):
    rows: Annotated[int, Field(ge=0)]
    digest: str


class _Compound(_Part):
    tasks: list[str] = Field(min_length=2)
    bar: Annotated[float, Field(gt=0)]


class _Card(_Part):
    format: int
    base_fingerprint: str
    taps: tuple[Annotated[int, Field(ge=1)], ...]
    blocks: Annotated[int, Field(ge=1)]
    background: str
    own: _Own
    budget: Budget
    scale: Scale
    thresholds: Thresholds
    metrics: dict[str, float]
    compound: _Compound | None
    tasks: dict[str, _Task] = Field(min_length=1)


def _router(card: _Card, tensors: Mapping[str, NDArray[Any]]) -> Router:
    names = tuple(sorted(card.tasks))
    take = _Tensors(tensors)
    width = len(take("frame.centre", np.float32, None))
    centre, spread, blank = (
        take(f"frame.{part}", np.float32, width) for part in ("centre", "spread", "blank")
    )
    frame = Frame(centre, spread, blank, card.blocks)
    _check(card, names)
    count = len(take("background.folds", np.int64, None))
    corpus = Corpus(
        take.rows("background.rows", count, width),
        take.sparse("background.grams", count),
        take.between("background.folds", np.int64, count, FOLDS),
        frame.means,
        card.own.rows,
    )
    if card.own.rows >= count:
        raise ValueError(f"{card.own.rows} of {count} rows of the background are the fleet's own")
    ground = Ground(card.base_fingerprint, card.taps, frame, corpus, card.background, card.own.digest)
    evidence = {}
    for name in names:
        task = card.tasks[name]
        kinds, folds, sources, snippets = zip(*task.rows, strict=True)
        evidence[name] = Evidence(
            task.data_digest,
            take.rows(f"task.{name}.rows", len(kinds), width),
            take.sparse(f"task.{name}.grams", len(kinds)),
            take(f"task.{name}.tokens", np.int32, len(kinds)),
            kinds,
            folds,
            snippets,
            sources,
            task.languages,
            _changes(take, f"task.{name}.changes", len(kinds), width),
        )
    dense = Discriminant(
        take("map.weights", np.float32, len(names), width), take("map.bias", np.float32, len(names))
    )
    lexicon = Lexicon(
        take.sparse("letters.weights", len(names), values=True).T.tocsr(),
        take("letters.unseen", np.float64, len(names)),
    )
    return Router(
        ground,
        evidence,
        card.budget,
        names,
        dense,
        lexicon,
        card.scale,
        card.thresholds,
        card.metrics,
        {name: card.tasks[name].fare for name in names},
        Span.of(evidence.values()),
        _compounds(take, card.compound, names, width // card.blocks),
    )


def _compounds(take: _Tensors, card: _Compound | None, names: Sequence[str], width: int) -> Compounds | None:
    if card is None:
        return None
    if len(set(card.tasks)) != len(card.tasks) or not set(card.tasks) <= set(names):
        raise ValueError("compound.tasks are not tasks of the router, each once")
    count = len(card.tasks) + 1
    weights = take("compound.weights", np.float32, count, width)
    return Compounds(tuple(card.tasks), weights, take("compound.bias", np.float32, count), card.bar)


def _check(card: _Card, names: Sequence[str]) -> None:
    """What must agree within a card."""
    if not card.taps or list(card.taps) != sorted(set(card.taps)):
        raise ValueError(f"taps {list(card.taps)} are not layers in order")
    if card.blocks != len(card.taps) * len(POOLS):
        raise ValueError(f"{len(card.taps)} taps do not make {card.blocks} blocks")
    stricter = {name for name in names if card.budget.of(name) < card.budget.max_misroute}
    if card.thresholds.tasks.keys() != stricter or not stricter.issuperset(card.thresholds.unshown):
        raise ValueError("the thresholds are not those of the tasks that are stricter")


def _changes(take: _Tensors, name: str, rows: int, width: int) -> Changes | None:
    if f"{name}.origins" not in take:
        return None
    origins = take.between(f"{name}.origins", np.int32, None, rows)
    count = len(origins)
    return Changes(
        take.rows(f"{name}.rows", count, width),
        take.sparse(f"{name}.grams", count),
        origins,
        take.between(f"{name}.ways", np.int32, count, len(WAYS)),
    )


class _Tensors:
    """Tensors of a file, each taken with the dtype and shape that it must have."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._tensors = tensors

    def __call__(self, name: str, dtype: type[np.number[Any]], *shape: int | None) -> NDArray[Any]:
        tensor = self._tensors[name]
        fits = len(tensor.shape) == len(shape) and all(
            want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        )
        if tensor.dtype != dtype or not fits or not np.isfinite(tensor).all():
            raise ValueError(f"tensor {name} is {tensor.dtype} {list(tensor.shape)}, or not finite")
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def rows(self, name: str, *shape: int) -> Bytes:
        """As ``Frame.place`` makes them: sums are exact only so far."""
        tensor = self(name, np.int8, *shape)
        if (tensor < -LIMIT).any():
            raise ValueError(f"tensor {name} holds less than {-LIMIT}")
        return tensor

    def between(self, name: str, dtype: type[np.integer[Any]], count: int | None, end: int) -> NDArray[Any]:
        """Whole numbers from 0 to below ``end``."""
        tensor = self(name, dtype, count)
        if len(tensor) and not 0 <= tensor.min() <= tensor.max() < end:
            raise ValueError(f"tensor {name} holds what is not from 0 to below {end}")
        return tensor

    def sparse(self, name: str, rows: int, *, values: bool = False) -> csr_matrix:
        indices = self(f"{name}.indices", np.int32, None)
        starts = self(f"{name}.starts", np.int32, rows + 1)
        ones = np.ones(len(indices), np.float32)
        data = self(f"{name}.values", np.float32, len(indices)) if values else ones
        whole = starts[0] == 0 and starts[-1] == len(indices) and (np.diff(starts) >= 0).all()
        if not whole or (len(indices) and not 0 <= indices.min() <= indices.max() < BUCKETS):
            raise ValueError(f"tensor {name} is no sparse matrix of {rows} rows")
        return csr_matrix((data, indices, starts), shape=(rows, BUCKETS))


def _sparse(name: str, matrix: csr_matrix, *, values: bool = False) -> dict[str, NDArray[Any]]:
    """A sparse matrix as tensors; without ``values`` all its entries are ones."""
    tensors: dict[str, NDArray[Any]] = {
        f"{name}.indices": matrix.indices.astype(np.int32),
        f"{name}.starts": matrix.indptr.astype(np.int32),
    }
    if values:
        tensors[f"{name}.values"] = matrix.data.astype(np.float32)
    return tensors
