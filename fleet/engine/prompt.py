"""The one place that turns jobs and wanted outputs into text and token ids. Knows nothing of models.

A prompt is ``<bos>{job}{suffix}{target}<eos>``, each part tokenised apart, so that the job's ids are
the same whatever the task is. What a job's text contains is always text: the string ``<eos>`` in it
becomes the tokens of its characters, never the control token. ``seal`` hashes all of this.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast

from fleet.engine.specs import ConstraintSpec, Example, LabelSpec, PromptSpec, SchemaSpec, TaskSpec
from fleet.errors import BaseError, DataError, JobError

__all__ = ["TEMPLATE", "Renderer", "TokenRow", "predicting", "render_job", "render_target", "seal"]

TEMPLATE = 1
"""Version of the rendering; raise it when the same job would give other ids than before."""

PROBES = (
    "The parcel (no. 48213) came on 2024-03-17, two days late; I'd like $19.95 back!",
    "Grüße aus Köln, привет, 안녕하세요, 订单已送到, مرحبا 🦊",
    '  two  spaces\n\n\ttab {"a": [1, 2]} <eos> <bos><unused3>',
)

# Control tokens that the official tokenizer does not mark as special. Runs of blanks and HTML tags are
# added tokens too, but they are how such text is spelled.
_PLAIN_CONTROL = r"<mask>|\[multimodal\]|<unused\d+>"


def render_job(prompt: PromptSpec, fields: Mapping[str, str]) -> str:
    """The job's canonical text: one field is its text alone, several are ``name: value`` lines.

    Fields that the prompt does not name are left out. Raises ``JobError`` if a field is missing, is no
    text, or all are blank.
    """
    missing = [name for name in prompt.fields if name not in fields]
    if missing:
        got = ", ".join(map(repr, fields)) or "none"
        raise JobError(f"The job has no field {', '.join(map(repr, missing))} (got {got}).")
    values = {name: fields[name] for name in prompt.fields}
    for name, value in values.items():
        if not isinstance(value, str):
            raise JobError(f"Field {name!r} must be text (got {type(value).__name__}).")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise JobError(f"Field {name!r} holds half of a surrogate pair, which is no character.")
    if not any(value.strip() for value in values.values()):
        raise JobError(f"The job is empty: {', '.join(map(repr, prompt.fields))} must not all be blank.")
    if len(values) == 1:
        return next(iter(values.values()))
    return "\n".join(f"{name}: {value}" for name, value in values.items())


def render_target(constraint: ConstraintSpec, output: Any) -> str:
    """The text that an expert should answer with, before it is tokenised.

    A label or a text follows a space; a record is compact JSON with its keys in the schema's order.
    Raises ``DataError`` if the output is none that the constraint could give.
    """
    if isinstance(constraint, LabelSpec):
        if output not in constraint.labels:
            raise DataError(f"An output must be one of {list(constraint.labels)} (got {output!r}).")
        return f" {output}"
    if isinstance(constraint, SchemaSpec):
        ordered = _in_schema_order(output, constraint.schema, constraint.schema)
        try:
            return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"An output must be a JSON value: {error} (got {output!r:.80}).") from error
    if not isinstance(output, str) or not output.strip():
        raise DataError(f"An output must be a text that is not blank (got {output!r:.80}).")
    return f" {output.strip()}"


def _in_schema_order(value: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    schema = _branch(schema, value, root)
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        keys = [key for key in properties if key in value]
        keys += [key for key in value if key not in properties]
        return {key: _in_schema_order(value[key], properties.get(key, {}), root) for key in keys}
    if isinstance(value, list | tuple):
        first = schema.get("prefixItems", [])
        rest = schema.get("items", {})
        return [
            _in_schema_order(item, first[place] if place < len(first) else rest, root)
            for place, item in enumerate(value)
        ]
    if schema.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)  # 20.0 is an integer to JSON Schema, but not to whoever spells it
    return value


def _branch(schema: Any, value: Any, root: Mapping[str, Any], depth: int = 0) -> Mapping[str, Any]:
    """The schema that orders ``value``: local references followed, of alternatives the first that suits."""
    if not isinstance(schema, Mapping) or depth > 32:
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        target: Any = root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name, {}) if isinstance(target, Mapping) else {}
        return _branch(target, value, root, depth + 1)
    for word in ("anyOf", "oneOf"):
        if word in schema and "properties" not in schema:
            branches = [_branch(each, value, root, depth + 1) for each in schema[word]]
            return next((each for each in branches if _suits(each, value)), {})
    return schema


def _suits(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether keys and coarse type fit; full validation belongs to ``fleet check``."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, Mapping):
        known = set(schema.get("properties", {}))
        required = set(schema.get("required", []))
        return (
            (not kinds or "object" in kinds) and required <= set(value) and (not known or set(value) <= known)
        )
    if isinstance(value, list | tuple):
        return not kinds or "array" in kinds
    if isinstance(value, float) and "integer" in kinds and "number" not in kinds:
        return value.is_integer()
    return not kinds or not {"object", "array"} >= set(kinds)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One training row as ids; ``ids[supervised_from:]`` are to be learnt, ``<eos>`` included."""

    ids: list[int]
    supervised_from: int
    """Index of the first target token; the hidden state before it predicts it."""
    job_len: int
    """Leading ids that belong to the job, ``<bos>`` included: the same for every task."""

    @property
    def supervised(self) -> int:
        """How many target tokens there are."""
        return len(self.ids) - self.supervised_from


def predicting(rows: Sequence[TokenRow]) -> list[int]:
    """Packed indices of the tokens whose hidden states predict the rows' targets, in order."""
    found: list[int] = []
    start = 0
    for row in rows:
        found += range(start + row.supervised_from - 1, start + len(row.ids) - 1)
        start += len(row.ids)
    return found


class Renderer:
    """Text to ids with one tokenizer. Takes padding and truncation off the tokenizer it is given.

    Use ``Renderer.of``: building one takes half a second on a large vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise BaseError("The base's tokenizer must name its <bos> and <eos> tokens.")
        self.bos: int = tokenizer.bos_token_id
        self.eos: int = tokenizer.eos_token_id
        self._backend = tokenizer.backend_tokenizer
        self._take_off()
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        longest_first = sorted(special, key=lambda content: (-len(content), content))
        self._control = re.compile("|".join([*map(re.escape, longest_first), _PLAIN_CONTROL]))

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Renderer:
        """The one renderer of this tokenizer object in this process."""
        known = _KNOWN.get(tokenizer)
        if known is None:
            known = _KNOWN[tokenizer] = cls(tokenizer)
        known._take_off()  # somebody may have called the tokenizer with a limit since
        return known

    def _take_off(self) -> None:
        # Only where there is something to take off: changing a tokenizer while another thread encodes raises.
        if self._backend.padding is not None:
            self._backend.no_padding()
        if self._backend.truncation is not None:
            self._backend.no_truncation()

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text as it stands: nothing in front or behind, no control token inside."""
        # A control string that is cut behind its first character is no longer one, and no token of
        # the vocabulary runs across the cut.
        cuts = [match.start() + 1 for match in self._control.finditer(text)]
        ids: list[int] = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            ids += self._backend.encode(text[start:end], add_special_tokens=False).ids
        return ids

    def places(self, text: str, characters: Sequence[int]) -> list[int]:
        """How many of ``text_ids`` begin before each of these characters, which are in order."""
        cuts = [match.start() + 1 for match in self._control.finditer(text)]
        begins: list[int] = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            encoding = self._backend.encode(text[start:end], add_special_tokens=False)
            begins += [start + begin for begin, _ in encoding.offsets]
        return [bisect_left(begins, character) for character in characters]

    def job_ids(self, text: str, limit: int | None = None) -> list[int]:
        """``<bos>`` and the canonical text's ids. Raises ``JobError`` if they are more than ``limit``."""
        ids = [self.bos, *self.text_ids(text)]
        if limit is not None and len(ids) > limit:
            raise JobError(
                f"The job has {len(ids)} tokens, its task takes {limit}: shorten the text "
                "or raise serving.max_input_tokens."
            )
        return ids

    def suffix_ids(self, suffix: str) -> list[int]:
        """Ids of a task's suffix."""
        return self.text_ids(suffix)

    def target_ids(self, text: str) -> list[int]:
        """Ids of a rendered target, then ``<eos>``."""
        return [*self.text_ids(text), self.eos]

    def row(self, spec: TaskSpec, example: Example) -> TokenRow:
        """One example as it is trained on. Raises ``JobError`` or ``DataError`` if it cannot be."""
        job = self.job_ids(render_job(spec.prompt, example.fields), spec.max_input_tokens)
        prompt = [*job, *self.suffix_ids(spec.prompt.suffix)]
        target = self.target_ids(render_target(spec.constraint, example.output))
        return TokenRow([*prompt, *target], len(prompt), len(job))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the whole tokenizer, without the padding and truncation a user may have set."""
        text: str = self._backend.to_str()
        return hashlib.sha256(text[text.index('"added_tokens"') :].encode()).hexdigest()


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerFast, Renderer] = WeakKeyDictionary()


def seal(renderer: Renderer, spec: TaskSpec) -> str:
    """SHA-256 over everything that turns a job of this task into ids, and over ids of probe rows.

    Training, evaluation, serving and export must agree on it: an expert answers wrongly, and silently,
    behind any other prompt than its own.
    """
    rows: list[list[int]] = []
    for probe in PROBES:
        job = render_job(spec.prompt, {name: f"{name[:1]}{probe}" for name in spec.prompt.fields})
        rows.append([*renderer.job_ids(job), *renderer.suffix_ids(spec.prompt.suffix)])
    shape: Any = None
    if isinstance(spec.constraint, LabelSpec):
        rows += [renderer.target_ids(render_target(spec.constraint, each)) for each in spec.constraint.labels]
    elif isinstance(spec.constraint, SchemaSpec):
        shape = spec.constraint.schema  # unsorted: the order of its keys is the order of the answer's
    else:
        rows.append(renderer.target_ids(render_target(spec.constraint, PROBES[0])))
    sealed = {
        "template": TEMPLATE,
        "prompt": asdict(spec.prompt),
        "tokenizer": renderer.digest,
        "schema": shape,
        "rows": rows,
    }
    return hashlib.sha256(json.dumps(sealed, separators=(",", ":")).encode()).hexdigest()
