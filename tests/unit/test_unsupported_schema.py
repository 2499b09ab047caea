"""What no grammar is made for is named by ``fleet check``, with file and line, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from fleet.cli.main import main
from fleet.errors import ManifestError
from fleet.project import Project
from fleet.schema_subset import unsupported_features

HEAD = """task: orders
description: What was ordered.
kind: extraction
data: {train: train.jsonl, eval: eval.jsonl, columns: {output: record}}
schema:
"""
S, N = {"type": "string"}, {"type": "null"}


def deep(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = N
    for _ in range(levels):
        node = {"type": "array", "items": node}
    return node


def doubling() -> dict[str, Any]:
    defs: dict[str, Any] = {"d0": N}
    for i in range(1, 14):
        defs[f"d{i}"] = {"anyOf": [{"$ref": f"#/$defs/d{i - 1}"}] * 2}
    return defs


# A property's schema, the field below it that is named, and what is said of it.
NODES: dict[str, tuple[Any, str, str]] = {
    **{
        # Words of JSON Schema 2020-12, of older drafts and of OpenAPI that stand beside a string.
        word: ({"type": "string", word: value}, f".{word}", f"the keyword {word}")
        for word, value in {
            "format": "date", "contentEncoding": "base64", "contentMediaType": "text/html",
            "contentSchema": S, "readOnly": True, "writeOnly": True, "nullable": True, "example": "x",
            "discriminator": {}, "$id": "x", "$anchor": "a", "$dynamicRef": "#a", "$dynamicAnchor": "a",
            "$vocabulary": {}, "$recursiveRef": "#", "definitions": {}, "x-own": 1, "allOf": [S],
            "oneOf": [S], "not": N, "if": S, "then": S, "else": S, "divisibleBy": 2, "extends": S,
        }.items()
    },
    **{
        word: ({"type": "integer", word: 2}, f".{word}", f"the keyword {word}")
        for word in ("multipleOf", "exclusiveMinimum", "exclusiveMaximum")
    },
    **{
        word: ({"type": "array", "items": S, word: value}, f".{word}", f"the keyword {word}")
        for word, value in {
            "prefixItems": [S, N], "uniqueItems": True, "contains": S, "minContains": 1,
            "maxContains": 2, "unevaluatedItems": False, "additionalItems": False,
        }.items()
    },
    **{
        word: ({"type": "object", "properties": {"a": S}, word: value}, f".{word}", f"the keyword {word}")
        for word, value in {
            "patternProperties": {"^x": S}, "propertyNames": S, "minProperties": 1, "maxProperties": 2,
            "unevaluatedProperties": False, "dependentRequired": {"a": ["a"]}, "dependentSchemas": {"a": S},
            "dependencies": {"a": ["a"]},
        }.items()
    },
    "open": (
        {"type": "object", "properties": {"a": S}, "additionalProperties": True},
        ".additionalProperties", "additionalProperties other than false",
    ),
    "typed-rest": (
        {"type": "object", "properties": {"a": S}, "additionalProperties": S},
        ".additionalProperties", "additionalProperties other than false",
    ),
    "required-unknown": (
        {"type": "object", "properties": {"a": S}, "required": ["b"]},
        ".required", "required of 'b', which is not a property",
    ),
    "no-properties": ({"type": "object"}, ".properties", "an object without properties"),
    "no-items": ({"type": "array"}, "", "an array without items"),
    "tuple-items": ({"type": "array", "items": [S, N]}, ".items", "a schema that is not a mapping"),
    "any": ({"description": "whatever"}, "", "a value of any type"),
    "true": (True, "", "a schema that is not a mapping"),
    "unknown-type": ({"type": "date"}, ".type", "the type date"),
    "type-twice": ({"type": ["null", "null"]}, ".type", "a type that is neither"),
    "wrong-limit": ({"type": "integer", "maxLength": 3}, ".maxLength", "maxLength on type integer"),
    "beside-enum": ({"enum": ["a"], "maxLength": 3}, ".maxLength", "maxLength beside enum"),
    "beside-ref": ({"$ref": "#/$defs/d", "type": "null"}, ".type", "type beside $ref"),
    "enum-record": ({"enum": ["a", {"b": 1}]}, ".enum.1", "enum of something other than text"),
    "enum-twice": ({"enum": ["a", "a"]}, ".enum.1", "enum with the same value twice"),
    "enum-empty": ({"enum": []}, ".enum", "enum that is not a list"),
    "enum-other-type": ({"type": "string", "enum": [1]}, ".enum.0", "is not of type string"),
    "const-list": ({"const": [1]}, ".const", "const of something other than text"),
    "const-infinite": ({"const": float("inf")}, ".const", "a number that JSON does not have"),
    "no-choice": ({"anyOf": []}, ".anyOf", "anyOf that is not a list of schemas"),
    "choice": ({"anyOf": [N, {"type": "string", "format": "x"}]}, ".anyOf.1.format", "the keyword format"),
    "ref-elsewhere": ({"$ref": "other.json"}, ".$ref", "$ref to anything but"),
    "ref-root": ({"$ref": "#"}, ".$ref", "$ref to anything but"),
    "ref-unknown": ({"$ref": "#/$defs/none"}, ".$ref", "which $defs does not have"),
    "inner-defs": ({"type": "null", "$defs": {}}, ".$defs", "$defs that are not at the top"),
    "verbatim-limit": ({**S, "x-verbatim": True, "minLength": 1}, ".minLength", "beside x-verbatim"),
    "verbatim-word": ({**S, "x-verbatim": "yes"}, ".x-verbatim", "neither true nor false"),
    "crossed": ({**S, "minLength": 3, "maxLength": 2}, ".minLength", "minLength above maxLength"),
    "negative": ({**S, "maxLength": -1}, ".maxLength", "not a whole number from 0 up"),
    "endless": ({**S, "minLength": 10**6}, ".minLength", "minLength above 1,000"),
    "many": ({"type": "array", "items": N, "minItems": 1001}, ".minItems", "minItems above 1,000"),
    "huge": ({"type": "number", "minimum": 1e300}, ".minimum", "a magnitude below 1e-15 or above 1e30"),
    "minute": ({"type": "number", "maximum": 5e-324}, ".maximum", "a magnitude below 1e-15 or above 1e30"),
    "no-whole": (
        {"type": "integer", "minimum": 0.2, "maximum": 0.8}, ".minimum", "no whole number between them",
    ),
    "too-deep": (deep(34), ".items" * 31, "more than 16 levels of nesting"),
    **{
        f"pattern {pattern}": ({**S, "pattern": pattern}, ".pattern", says)
        for pattern, says in {
            "(": "not a regular expression",
            r"\p{L}": "not a regular expression",
            r"(?=a)b": "look-around, word boundaries or back-references",
            r"(?<!a)b": "look-around, word boundaries or back-references",
            r"(a)\1": "look-around, word boundaries or back-references",
            r"\bfox\b": "look-around, word boundaries or back-references",
            r"(?>a)b": "atomic groups or possessive repeats",
            "a++b": "atomic groups or possessive repeats",
            "a^b": "^ or $ in its middle",
            "(a$)+": "^ or $ in its middle",
            "(?m)^a$": "the flag m",
            "[[:alpha:]]": "other programs read differently",
            "[a&&b]": "other programs read differently",
            r"[^\s\S]": "a class that holds no character",
            "(.{100}){100}": "more than 5000 characters",
        }.items()
    },
    "pattern-too-long": (
        {**S, "pattern": "^a{4}$", "maxLength": 3}, ".pattern", "needs 4 characters beside maxLength 3",
    ),
    "pattern-too-short": (
        {**S, "pattern": "^a{,4}$", "minLength": 5}, ".pattern", "at most 4 characters beside minLength 5",
    ),
}  # fmt: skip

# Whole schemas beside the property, the field that is named, and what is said of it.
WHOLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "recursion": (
        {
            "properties": {"tree": {"$ref": "#/$defs/tree"}},
            "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        },
        "schema.$defs.tree", "$ref to 'tree' from within itself (recursion)",
    ),
    "explosion": (
        {"properties": {"a": {"$ref": "#/$defs/d13"}}, "$defs": doubling()},
        "schema", "more than 2000 parts",
    ),
    "unfillable": (
        {
            "properties": {
                "a": {"type": "array", "minItems": 90, "items": {"type": "array", "minItems": 90, "items": N}}
            },
            "required": ["a"],
        },
        "schema", "values at least",
    ),
}  # fmt: skip


def write(root: Path, schema: dict[str, Any]) -> Path:
    """A fleet of one task with this schema, a block of YAML of its own for every value."""
    folder = root / "tasks" / "orders"
    folder.mkdir(parents=True)
    (root / "fleet.yaml").write_text("name: odd\n")
    body = yaml.safe_dump(schema, allow_unicode=True, sort_keys=False, default_flow_style=False)
    file = folder / "task.yaml"
    file.write_text(HEAD + "".join(f"  {line}\n" for line in body.splitlines()))
    for name in ("train", "eval"):
        (folder / f"{name}.jsonl").write_text('{"text": "tea", "record": {"item": "tea"}}\n')
    return file


def named(root: Path) -> list[dict[str, Any]]:
    ran = CliRunner().invoke(main, ["--root", str(root), "check", "--json"])
    assert ran.exit_code == 2, ran.output
    return [fault for fault in json.loads(ran.stdout)["faults"] if fault["rule"] == "unsupported-schema"]


@pytest.mark.parametrize("case", NODES)
def test_the_check_names_the_feature_its_file_and_its_line(case: str, tmp_path: Path) -> None:
    node, field, says = NODES[case]
    properties = {"item": {"type": "string"}, "odd": node}
    file = write(tmp_path, {"type": "object", "properties": properties, "$defs": {"d": N}})
    (fault, *others) = named(tmp_path)
    assert says in fault["message"]
    assert fault["file"] == "tasks/orders/task.yaml"
    assert fault["field"] == f"schema.properties.odd{field}"
    # The line is that of the last step which is written at all.
    lines = file.read_text().splitlines()
    steps = [step for step in ("odd", *field.split(".")[1:]) if not step.isdigit()]
    written = [line for line in lines if line.strip().lstrip("- ").startswith(f"{steps[-1]}:")]
    if field.endswith(".properties") or "too-deep" in case:
        assert lines[fault["line"] - 1].strip().split(":")[0] in ("odd", "items")
    elif field.split(".")[-1].isdigit():
        assert lines[fault["line"] - 1].strip().startswith("- ")
    else:
        assert lines[fault["line"] - 1] in written
    assert all(other["field"].startswith("schema.properties.odd") for other in others)


@pytest.mark.parametrize("case", WHOLE)
def test_what_only_the_whole_schema_shows_is_named_too(case: str, tmp_path: Path) -> None:
    parts, field, says = WHOLE[case]
    write(tmp_path, {"type": "object", **parts})
    (fault,) = named(tmp_path)
    assert says in fault["message"]
    assert (fault["file"], fault["field"]) == ("tasks/orders/task.yaml", field)
    assert fault["line"] >= 5


@pytest.mark.parametrize("name", ["²", "0", "a/b", "a~b", "ö", "x y"])
def test_odd_names_of_properties_have_their_line_too(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, {"type": "object", "properties": {name: {"type": "string", "format": "date"}}})
    (fault,) = named(tmp_path)
    assert fault["field"] == f"schema.properties.{name}.format"
    assert "format: date" in file.read_text().splitlines()[fault["line"] - 1]


def test_half_a_character_is_named_and_a_whole_one_in_two_escapes_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, {"type": "object", "properties": {"item": {"type": "string"}}})
    file.write_text(file.read_text() + '    note: {enum: ["\\ud83d\\ude00", "\\ud83d"]}\n')
    ran = CliRunner().invoke(main, ["--root", str(tmp_path), "check", "--json"])
    (fault,) = [each for each in json.loads(ran.stdout)["faults"] if each["rule"] == "not-unicode"]
    assert fault["field"] == "schema.properties.note.enum.1"
    assert fault["line"] == len(file.read_text().splitlines())


def test_no_training_can_get_hold_of_it(tmp_path: Path) -> None:
    """Every command reads a task through this door; a campaign makes a failed row of it (test_campaign)."""
    write(tmp_path, {"type": "object", "properties": {"item": {"type": "string", "format": "date"}}})
    with pytest.raises(ManifestError, match=r"task.yaml:\d+: schema.properties.item.format: .*unsupported"):
        Project.find(tmp_path).task("orders")


def test_rows_are_held_against_a_pattern_as_the_grammar_reads_it(tmp_path: Path) -> None:
    properties = {"item": {"type": "string", "pattern": "^\\d+$"}}
    file = write(tmp_path, {"type": "object", "properties": properties})
    rows = [{"text": "tea", "record": {"item": item}} for item in ("12", "١٢", "12\n")]
    (file.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = CliRunner().invoke(main, ["--root", str(tmp_path), "check", "--json"])
    faults = [fault for fault in json.loads(ran.stdout)["faults"] if fault["file"].endswith("train.jsonl")]
    broken = [(fault["line"], fault["field"]) for fault in faults if fault["rule"] == "schema-violation"]
    assert broken == [(2, "record.item"), (3, "record.item")]


def test_everything_said_to_be_supported_passes() -> None:
    schema = {
        "type": "object",
        "title": "order", "description": "d", "default": {}, "examples": [], "$comment": "c",
        "deprecated": False,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {
            "copied": {"type": "string", "x-verbatim": True},
            "free": {"type": "string", "minLength": 1, "maxLength": 90, "x-verbatim": False},
            "code": {"type": "string", "pattern": "(?i)^[a-z]{2}-\\d+$", "maxLength": 12},
            "several": {"type": ["string", "integer", "null"], "maxLength": 3, "minimum": -2.5},
            "count": {"type": "integer", "minimum": 1, "maximum": 10**30},
            "price": {"type": "number", "minimum": 1e-15, "maximum": 99.5},
            "flag": {"type": "boolean"},
            "size": {"enum": ["s", 2, 1.5, True, None]},
            "kind": {"const": "order", "type": "string"},
            "either": {"anyOf": [{"$ref": "#/$defs/a~1b"}, {"type": "null"}]},
            "list": {"type": "array", "items": {"$ref": "#/$defs/a~1b"}, "minItems": 1, "maxItems": 9},
        },
        "required": ["copied", "list"],
        "additionalProperties": False,
        "$defs": {"a/b": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }  # fmt: skip
    assert unsupported_features(schema) == []
