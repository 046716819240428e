from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tacit.config import parse_table
from tacit.errors import ConfigError, DecodeError
from tacit.policy import Contract, FeatureColumn, Schema, schema_difference

FEATURE = {
    "name": "radius",
    "type": "number",
    "class": "feature",
    "action": "keep",
    "lower": 0.0,
    "upper": 30.0,
    "bounds_source": "textbook",
}
LABEL = {
    "name": "diagnosis",
    "type": "string",
    "class": "label",
    "action": "keep",
    "values": ["benign", "malignant"],
}


def contract(*columns: dict[str, Any], **changes: Any) -> Contract:
    content = {
        "version": 1,
        "name": "diagnosis",
        "source": {"path": "records.csv", "format": "csv"},
        "columns": list(columns or (FEATURE, LABEL)),
        **changes,
    }
    return parse_table(content, Contract, "contract.toml")


def column(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "type": "string", "class": "identifier", "action": "drop", **changes}


def test_the_schema_holds_the_kept_columns_in_order() -> None:
    flag = {"name": "smoker", "type": "boolean", "class": "feature", "action": "keep"}
    unused = {"name": "age", "type": "integer", "class": "feature", "action": "drop"}
    schema = contract(column(), LABEL, flag, unused, FEATURE).schema()
    assert schema == Schema(
        (FeatureColumn("smoker", 0.0, 1.0), FeatureColumn("radius", 0.0, 30.0)),
        "diagnosis",
        ("benign", "malignant"),
    )


@pytest.mark.parametrize(
    ("kind", "values", "classes"),
    [("integer", [2, 0], ("2", "0")), ("boolean", [False, True], ("false", "true"))],
)
def test_classes_are_text(kind: str, values: list[Any], classes: tuple[str, ...]) -> None:
    schema = contract(FEATURE, {**LABEL, "type": kind, "values": values}).schema()
    assert schema.classes == classes


def test_load_names_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "contract.toml"
    path.write_text(
        'version = 1\nname = "d"\n[source]\npath = "x"\nformat = "csv"\n'
        '[[columns]]\nname = "x"\ntype = "number"\nclass = "feature"\nactoin = "keep"\n'
    )
    with pytest.raises(ConfigError) as caught:
        Contract.load(path)
    path.write_text(path.read_text().replace("actoin", "action") + "lowr = 1\n")
    with pytest.raises(ConfigError, match=r"unknown key 'columns.0.lowr'.*did you mean 'lower'"):
        Contract.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("class_", "allowed"),
    [
        ("identifier", {"drop", "token"}),
        ("quasi-identifier", {"drop", "token", "generalise"}),
        ("sensitive", {"drop", "token", "generalise"}),
        ("free-text", {"drop"}),
    ],
)
def test_what_may_become_of_a_column_depends_on_its_class(class_: str, allowed: set[str]) -> None:
    for action in ("keep", "drop", "token", "generalise"):
        entry = column(**{"class": class_, "action": action})
        if action == "generalise":
            entry["generalise"] = {"method": "prefix", "length": 3}
        if action in allowed:
            contract(FEATURE, LABEL, entry)
        else:
            with pytest.raises(ConfigError, match=f"{class_}.*not {action}"):
                contract(FEATURE, LABEL, entry)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({**FEATURE, "lower": None}, "needs 'lower'"),
        ({**FEATURE, "upper": None}, "needs 'upper'"),
        ({**FEATURE, "bounds_source": None}, "needs 'bounds_source'"),
        ({**FEATURE, "lower": 30.0}, "lower must be below upper"),
        ({**FEATURE, "upper": float("inf")}, "finite"),
        ({**FEATURE, "type": "boolean"}, "are for integer and number features"),
        ({**column(**{"class": "feature", "action": "keep"})}, "not a string"),
        ({**LABEL, "values": None}, "at least two 'values'"),
        ({**LABEL, "values": ["one"]}, "at least two 'values'"),
        ({**LABEL, "values": ["a", "a"]}, "listed twice"),
        ({**LABEL, "values": ["a", 1]}, "of type string"),
        ({**LABEL, "type": "integer", "values": [True, 1]}, "of type integer"),
        ({**LABEL, "type": "number", "values": [1, 2]}, "a label is"),
        (column(values=["a", "b"]), "values are for the label"),
        (column(lower=1.0), "are for integer and number features"),
        (column(**{"class": "sensitive", "type": "number", "action": "token"}), "cannot become"),
    ],
)
def test_columns_that_make_no_sense_are_refused(entry: dict[str, Any], reason: str) -> None:
    rest = LABEL if entry["class"] == "feature" else FEATURE
    columns = (entry, rest) if entry["class"] in ("feature", "label") else (FEATURE, LABEL, entry)
    with pytest.raises(ConfigError, match=reason):
        contract(*columns)


@pytest.mark.parametrize(
    ("kind", "how", "reason"),
    [
        ("string", {"method": "prefix"}, "takes 'length'"),
        ("string", {"method": "prefix", "length": 3, "width": 2}, "takes 'length'"),
        ("string", {"method": "year"}, "for date columns"),
        ("date", {"method": "age", "width": 10}, "takes 'on' and 'width'"),
        ("integer", {"method": "bins", "width": 1}, "stay as they are"),
        ("string", None, "need each other"),
    ],
)
def test_a_generalisation_must_fit(kind: str, how: dict[str, Any] | None, reason: str) -> None:
    entry = column(
        **{"class": "quasi-identifier", "type": kind, "action": "generalise", "generalise": how}
    )
    with pytest.raises(ConfigError, match=reason):
        contract(FEATURE, LABEL, entry)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ((FEATURE, column()), "exactly one column has class 'label'"),
        ((FEATURE, LABEL, {**LABEL, "name": "second"}), "exactly one column has class 'label'"),
        ((column(), LABEL), "at least one column has class 'feature'"),
        ((FEATURE, LABEL, FEATURE), "declared twice"),
    ],
)
def test_a_contract_has_features_and_one_label(columns: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        contract(*columns)


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    text = 'version = 1\nname = "d"\nsource = { path = "x", format = "csv" }\n'
    for entry in (FEATURE, LABEL):
        text += "[[columns]]\n"
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
    digests = []
    for content in (text, "# comment\n" + text.replace("30.0", "30"), text.replace("30.0", "31")):
        path = tmp_path / "contract.toml"
        path.write_text(content)
        digests.append(Contract.load(path).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_schema_survives_its_canonical_form() -> None:
    schema = contract().schema()
    assert Schema.from_canonical(schema.canonical()) == schema


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b" ",
        lambda data: data.replace(b'"30.0"', b'"30.00"'),
        lambda data: data.replace(b'"30.0"', b'"inf"'),
        lambda data: data.replace(b'"30.0"', b'"-1.0"'),
        lambda data: data.replace(b'"30.0"', b"30"),
        lambda data: data.replace(b'"version":1', b'"version":2'),
        lambda data: data.replace(b'"version":1', b'"version":1.0'),
        lambda data: data.replace(b'"malignant"', b'"benign"'),
        lambda data: data.replace(b'"label":"diagnosis"', b'"label":"radius"'),
        lambda data: data.replace(b'"label":"diagnosis"', b'"label":"\\ud800"'),
        lambda data: data.replace(b'"label":"diagnosis",', b""),
        lambda data: b"[" * 100_000,
        lambda data: b"\xff",
        lambda data: b"[]",
    ],
)
def test_any_other_bytes_are_no_schema(change: Any) -> None:
    data = contract().schema().canonical()
    assert change(data) != data
    with pytest.raises(DecodeError):
        Schema.from_canonical(change(data))


def test_the_difference_of_two_schemas_names_the_first_column() -> None:
    ours = contract().schema()
    assert schema_difference(ours, ours) == ""
    second = {**FEATURE, "name": "texture"}
    for theirs, words in [
        (contract(second, LABEL).schema(), "feature 1 is 'radius' here and 'texture' there"),
        (contract({**FEATURE, "upper": 9.0}, LABEL).schema(), "0.0 to 30.0 here and 0.0 to 9.0"),
        (contract(FEATURE, second, LABEL).schema(), "only one side has 'texture'"),
        (contract(FEATURE, {**LABEL, "name": "y"}).schema(), "'diagnosis' here and 'y' there"),
        (contract(FEATURE, {**LABEL, "values": ["a", "b"]}).schema(), "classes benign, malignant"),
    ]:
        assert words in schema_difference(ours, theirs)
