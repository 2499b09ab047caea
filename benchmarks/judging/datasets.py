"""The public data sets as tasks: rows, constraint, metric, target, and what others published.

Every data set is a folder of JSONL files with the publisher's splits. Validation rows are the
publisher's; where there are none, some training rows are held out, chosen by a hash of their content.
Test rows are only for the table. Knows nothing of models, training or results.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.engine.evaluate import Measured, measure
from fleet.engine.specs import ConstraintSpec, Example, LabelSpec, SchemaSpec

FORM = 1
"""Part of every key: raise it when the same files would give other rows, labels, schemas or limits."""
HELD_OUT = 400
"""Training rows held out for validation where the publisher has none."""
FEW = 256
"""Up to this many rows are drawn from the classes in turn; more are drawn as they come."""

Score = Callable[[Sequence[Any], Sequence[Any]], Measured]


@dataclass(frozen=True, slots=True)
class DataSet:
    """One public data set and how it is asked of an expert."""

    name: str
    suffix: str
    metric: str
    """What ``score`` measures, in words."""
    target: float
    published: str
    read: Callable[[Mapping[str, Any]], Example]
    score: Score
    shape: Callable[[Sequence[Example]], ConstraintSpec]
    max_output_tokens: int = 64
    templates: bool = False
    """Rows are fillings of templates: validation rows are held out by whole groups of similar texts."""

    @property
    def classification(self) -> bool:
        return self.shape is _labels


@dataclass(frozen=True, slots=True)
class Rows:
    """A data set's rows; no validation row is among the training rows."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    constraint: ConstraintSpec


def absent(data: Path, name: str) -> str | None:
    """Why the data set cannot be used, or None when it can."""
    missing = [file for file in ("train.jsonl", "test.jsonl") if not (data / name / file).is_file()]
    return f"{data / name} has no {' and no '.join(missing)} (--data FOLDER says where)" if missing else None


def load(dataset: DataSet, data: Path) -> Rows:
    """All rows of a data set that is not ``absent``."""
    folder = data / dataset.name
    train = _read(dataset, folder / "train.jsonl")
    published = next((file for file in _validation_files(folder) if file.is_file()), None)
    if published is not None:
        validation = _read(dataset, published)
    else:
        groups = _template_groups(train) if dataset.templates else None
        train, validation = hold_out(train, HELD_OUT, groups)
    test = _read(dataset, folder / "test.jsonl")
    return Rows(train, validation, test, dataset.shape(train))


def digest(dataset: DataSet, data: Path) -> str:
    """SHA-256 over the data set's files and the form they are given here."""
    folder = data / dataset.name
    total = hashlib.sha256(str(FORM).encode())
    for file in (folder / "train.jsonl", *_validation_files(folder), folder / "test.jsonl"):
        if file.is_file():
            total.update(f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def draw(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """``count`` rows by seed, all if there are no more; up to ``FEW`` from every class in turn."""
    order = random.Random(seed).sample(range(len(examples)), len(examples))
    if count <= FEW:
        seen: dict[Hashable, int] = defaultdict(int)
        turns: dict[int, int] = {}
        for index in order:
            kind = _class(examples[index].output)
            turns[index] = seen[kind]
            seen[kind] += 1
        order.sort(key=turns.__getitem__)
    return [examples[index] for index in order[:count]]


def hold_out(
    examples: Sequence[Example], count: int, groups: Sequence[int] | None = None
) -> tuple[list[Example], list[Example]]:
    """Training rows and about ``count`` validation rows: whole groups (each row its own) by a hash."""
    keys = list(range(len(examples))) if groups is None else list(groups)
    members: dict[int, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)

    def rank(key: int) -> str:
        first = min(json.dumps(dict(examples[i].fields), sort_keys=True) for i in members[key])
        return hashlib.sha256(first.encode()).hexdigest()

    held: set[int] = set()
    for key in sorted(members, key=rank):
        if len(held) >= count:
            break
        # A group beyond half of what is wanted would be most of the validation rows.
        if len(members[key]) <= max(1, count // 2):
            held.update(members[key])
    return (
        [row for i, row in enumerate(examples) if i not in held],
        [row for i, row in enumerate(examples) if i in held],
    )


def _validation_files(folder: Path) -> tuple[Path, Path]:
    return folder / "val.jsonl", folder / "dev.jsonl"


def _read(dataset: DataSet, file: Path) -> list[Example]:
    with file.open(encoding="utf-8") as lines:
        return [dataset.read(json.loads(line)) for line in lines if line.strip()]


def _class(output: Any) -> Hashable:
    """What few rows are drawn in turn from: label, intent, or whether there is any entity."""
    if isinstance(output, Mapping):
        return output["intent"] if "intent" in output else bool(output)
    return str(output)


def _template_groups(examples: Sequence[Example], similar: float = 0.6) -> list[int]:
    """A number for each row; rows of one template, transitively similar texts, have the same.

    Similarity is the cosine of TF-IDF over character 4-grams, which suits languages without spaces too.
    """
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [example.fields["text"] for example in examples]
    grams = TfidfVectorizer(analyzer="char", ngram_range=(4, 4), sublinear_tf=True, max_df=0.01)
    vectors = grams.fit_transform(texts)
    near = vectors @ vectors.T
    near.data[near.data < similar] = 0
    near.eliminate_zeros()
    groups: list[int] = connected_components(near, directed=False)[1].tolist()
    return groups


def _label(row: Mapping[str, Any]) -> Example:
    return Example({"text": row["text"]}, row["label"].replace("_", " "))


def _record(row: Mapping[str, Any]) -> Example:
    return Example({"text": row["text"]}, {"intent": row["intent"], "slots": row["slots"]})


def _entities(row: Mapping[str, Any]) -> Example:
    return Example({"text": row["text"]}, row["entities"])


def _labels(train: Sequence[Example]) -> ConstraintSpec:
    return LabelSpec(tuple(sorted({example.output for example in train})))


def _intent_and_slots(train: Sequence[Example]) -> ConstraintSpec:
    """Slots in the order in which they usually come in the text, so that answers read along with it."""
    places: dict[str, list[float]] = defaultdict(list)
    for example in train:
        text = example.fields["text"]
        for slot, value in example.output["slots"].items():
            places[slot].append(text.find(value) / len(text))
    ordered = sorted(places, key=lambda slot: (sum(places[slot]) / len(places[slot]), slot))
    intents = sorted({example.output["intent"] for example in train})
    slots = {slot: {"type": "string", "x-verbatim": True} for slot in ordered}
    return SchemaSpec(
        {
            "type": "object",
            "properties": {"intent": {"enum": intents}, "slots": {"type": "object", "properties": slots}},
            "required": ["intent", "slots"],
        }
    )


def _spans_by_type(train: Sequence[Example]) -> ConstraintSpec:
    """Types by how often they occur; a type without a span is left out."""
    counts: dict[str, int] = defaultdict(int)
    for example in train:
        for kind in example.output:
            counts[kind] += 1
    spans = {"type": "array", "items": {"type": "string", "x-verbatim": True}, "minItems": 1}
    kinds = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return SchemaSpec({"type": "object", "properties": dict.fromkeys(kinds, spans)})


def _accuracy(wanted: Sequence[Any], given: Sequence[Any]) -> Measured:
    return measure("accuracy", wanted, given)


def _macro_f1(wanted: Sequence[Any], given: Sequence[Any]) -> Measured:
    return measure("macro_f1", wanted, given)


def _f1_of_irony(wanted: Sequence[Any], given: Sequence[Any]) -> Measured:
    """F1 of one class: the F1 of spans where only that class is one."""

    def spans(answers: Sequence[Any]) -> list[list[str]]:
        return [[answer] if answer == "irony" else [] for answer in answers]

    return measure("span_f1", spans(wanted), spans(given))


def _exact(wanted: Sequence[Any], given: Sequence[Any]) -> Measured:
    return measure("exact_match", wanted, given)


def _span_f1(wanted: Sequence[Any], given: Sequence[Any]) -> Measured:
    return measure("span_f1", wanted, given)


DATA_SETS: dict[str, DataSet] = {
    dataset.name: dataset
    for dataset in (
        DataSet(
            name="tweet_emotion",
            suffix="\n\nEmotion:",
            metric="macro-F1",
            target=0.81,
            published="RoBERTa-base .761, BERTweet .793, TimeLMs .802",
            read=_label,
            score=_macro_f1,
            shape=_labels,
        ),
        DataSet(
            name="tweet_irony",
            suffix="\n\nIrony:",
            metric="F1 of irony",
            target=0.70,
            published="RoBERTa-base .597, RoBERTa-Twitter .654, BERTweet .821",
            read=_label,
            score=_f1_of_irony,
            shape=_labels,
        ),
        DataSet(
            name="sst2",
            suffix="\n\nSentiment:",
            metric="accuracy",
            target=0.92,
            published="gemma-2b, tuned (LoRA Land) .954",
            read=_label,
            score=_accuracy,
            shape=_labels,
        ),
        DataSet(
            name="banking77",
            suffix="\n\nIntent:",
            metric="accuracy",
            target=0.92,
            published="",
            read=_label,
            score=_accuracy,
            shape=_labels,
        ),
        DataSet(
            name="snips",
            suffix="\n\nIntent and slots:",
            metric="intent + exact slots",
            target=0.85,
            published="",
            read=_record,
            score=_exact,
            shape=_intent_and_slots,
            max_output_tokens=96,
        ),
        DataSet(
            name="wnut17",
            suffix="\n\nNamed entities:",
            metric="span F1",
            target=0.45,
            published="",
            read=_entities,
            score=_span_f1,
            shape=_spans_by_type,
        ),
        DataSet(
            name="moderation_10_languages",
            suffix="\n\nModeration:",
            metric="macro-F1",
            target=0.85,
            published="",
            read=_label,
            score=_macro_f1,
            shape=_labels,
            templates=True,
        ),
    )
}
