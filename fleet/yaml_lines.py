"""Safe YAML with the line of every value, for messages that point at the place.

Reads YAML 1.2's core types (text, whole and decimal numbers, true/false, null, lists, mappings with
text keys), so that ``no`` and ``on`` stay text and ``3e-4`` is a number. Every tag beyond these, a key
given twice, a merge key and a document too large or too deep are faults; nothing is ever constructed.
Knows nothing of what the document means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fleet.errors import Fault, ManifestError

__all__ = ["Document", "Step", "parse_yaml", "read_yaml", "shorten"]

Step = str | int
"""A mapping key or a list index; a tuple of steps is a place in a document."""

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document: plain JSON-like values, and where they were written."""

    value: Any
    file: str
    lines: Mapping[tuple[Step, ...], int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    """What is wrong with the document as such, such as a key given twice."""

    def line(self, place: tuple[Step, ...]) -> int | None:
        """1-based line of ``place``, or of the nearest thing around it that was written."""
        for end in range(len(place), -1, -1):
            if place[:end] in self.lines:
                return self.lines[place[:end]]
        return None


class _Loader(yaml.SafeLoader):
    """Only composes nodes; resolves plain scalars as YAML 1.2's core schema does."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute


_PLAIN = {
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), [*"~nN", ""]),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    "float": (
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.nan)$"
        ),
        list("-+.0123456789"),
    ),
}
_TAG = "tag:yaml.org,2002:"
for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)


def read_yaml(path: Path, file: str) -> Document:
    """Parse the file at ``path``; ``file`` is how messages name it.

    Raises ManifestError when it is missing, too large, not UTF-8 or not YAML.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        fault = Fault(
            "unreadable-file", f"cannot be read ({error.strerror}): create it or mend its rights", file
        )
        raise ManifestError(faults=[fault]) from error
    if len(raw) > MAX_BYTES:
        raise ManifestError(faults=[Fault("file-too-large", f"is larger than {MAX_BYTES} bytes", file)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        fault = Fault(
            "not-utf8",
            "is not UTF-8 text: save it as UTF-8",
            file,
            line,
            value=f"byte 0x{raw[error.start]:02x}",
        )
        raise ManifestError(faults=[fault]) from error
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str) -> Document:
    """Parse ``text``. Raises ManifestError with the line when it is not one YAML document."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "cannot be parsed"
        line = mark.line + 1 if mark else None
        raise ManifestError(
            faults=[Fault("yaml-syntax", f"is not valid YAML: {problem}", file, line)]
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise ManifestError(faults=[Fault("yaml-syntax", f"is not valid YAML: {reason}", file)]) from error
    finally:
        if loader is not None:
            loader.dispose()
    builder = _Builder(file)
    value = builder.build(node, (), 1) if node is not None else None
    return Document(value, file, builder.lines, tuple(builder.faults))


def shorten(value: Any, limit: int = 80) -> str:
    """``value`` as one short line for a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class _Builder:
    """Turns composed nodes into plain values, noting lines and faults on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[tuple[Step, ...], int] = {}
        self.faults: list[Fault] = []
        self._left = MAX_NODES

    def build(self, node: yaml.Node, place: tuple[Step, ...], line: int) -> Any:
        self.lines[place] = line
        self._left -= 1
        if self._left == 0 or len(place) == MAX_DEPTH:
            # Aliases may stand for far more than was written, or for themselves.
            rule = f"holds more than {MAX_NODES} values or {MAX_DEPTH} levels, aliases followed"
            raise ManifestError(faults=[Fault("yaml-too-large", rule, self.file, line)])
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = enumerate(node.value)
            return [self.build(item, (*place, i), item.start_mark.line + 1) for i, item in items]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place, line)
        self._fault("yaml-tag", "a tag that is not allowed: only plain YAML is read", place, line, node.tag)
        return None

    def _mapping(self, node: yaml.MappingNode, place: tuple[Step, ...]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a collection"
                self._fault("key-not-text", "a key must be text: put it in quotes", place, line, shown)
                continue
            key = self._text(key_node.value, place, line)
            if key == "<<" and key_node.style is None:
                self._fault("yaml-merge", "merge keys are not read: write the fields out", place, line, key)
            elif key in out:
                first = self.lines[(*place, key)]
                rule = f"is given twice, first on line {first}: keep one"
                self._fault("duplicate-key", rule, (*place, key), line, key)
            else:
                out[key] = None
                out[key] = self.build(child, (*place, key), line)
        return out

    def _scalar(self, node: yaml.ScalarNode, place: tuple[Step, ...], line: int) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind == "str":
            return self._text(text, place, line)
        pattern = _PLAIN[kind][0] if kind in _PLAIN else None
        if pattern is None or not pattern.match(text):
            rule = "a tag that is not allowed or does not fit its value: only plain YAML is read"
            self._fault("yaml-tag", rule, place, line, f"{node.tag} {text}")
            return None
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            if len(text) > 300:
                self._fault("yaml-too-large", "a number of more than 300 digits", place, line, text[:20])
                return None
            return int(text)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def _text(self, text: str, place: tuple[Step, ...], line: int) -> str:
        """``text`` with surrogate pairs, as JSON escapes them, joined; half a pair is a fault."""
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError:
            rule = "holds half of a surrogate pair, which is no character: write the character itself"
            shown = text.encode("ascii", "backslashreplace").decode()
            self._fault("not-unicode", rule, place, line, shown)
            return text.encode("utf-8", "replace").decode()

    def _fault(self, rule: str, message: str, place: tuple[Step, ...], line: int, value: str) -> None:
        self.faults.append(Fault(rule, message, self.file, line, ".".join(map(str, place)), shorten(value)))
