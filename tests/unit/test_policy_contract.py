from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tacit.errors import ConfigError, DecodeError
from tacit.policy import Contract, FeatureColumn, Schema, schema_difference
from tacit.policy.column import ALLOWED_METHODS
from tacit.policy.transform import FEATURE_METHODS, METHODS
from tacit.testing.contracts import FEATURE, LABEL, PERSON, SHIFTED, ZIP, column, contract


def refused(reason: str, *columns: dict[str, Any], **changes: Any) -> None:
    with pytest.raises(ConfigError, match=reason):
        contract(*columns, **changes)


# --- which method fits ------------------------------------------------------------------------------


def kind_for(method: str) -> str:
    return METHODS[method].types[0]  # type: ignore[index]


@pytest.mark.parametrize("classification", sorted({*ALLOWED_METHODS} - {"label"}))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_may_become_of_a_column_depends_on_its_class(classification: str, method: str) -> None:
    kind = "boolean" if method == "keep" else kind_for(method)
    entry = column(classification, kind, method)
    if classification == "feature" and method in ("age", "bins"):
        entry |= {"logicalType": "integer", "bounds_source": "textbook"}
        entry["logicalTypeOptions"] = {"minimum": 0, "maximum": 90}
        entry = {
            key: value for key, value in entry.items() if method == "bins" or key != "bounds_source"
        }
    extra = {"entity": "person"} if method == "date-shift" else {}
    if method == "age" and entry["logicalType"] == "date":
        entry["transform"]["on"] = date(2026, 1, 1)
    columns = (FEATURE, LABEL, PERSON, entry)
    if method in ALLOWED_METHODS[classification]:
        assert contract(*columns, **extra).columns[3].method == method
    else:
        refused(f"class '{classification}' may be .*, not {method}", *columns, **extra)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_is_for_some_types_only(method: str) -> None:
    every = (
        "string",
        "integer",
        "number",
        "boolean",
        "date",
        "timestamp",
        "time",
        "object",
        "array",
    )
    classification = "free-text" if method == "quarantine" else "quasi-identifier"
    classification = "feature" if method == "keep" else classification
    for kind in set(every) - set(METHODS[method].types):  # type: ignore[index]
        entry = column(classification, kind, method)
        refused(f"method '{method}' is for .* columns", FEATURE, LABEL, entry)


@pytest.mark.parametrize(
    ("kind", "how", "reason"),
    [
        ("string", {"method": "prefix"}, "'prefix' needs 'length'"),
        ("string", {"method": "prefix", "length": 3, "width": 2}, "'prefix' takes 'length'"),
        ("string", {"method": "prefix", "length": 0}, "length"),
        ("string", {"method": "drop", "width": 2}, "'drop' takes no further key"),
        ("string", {"method": "ff1"}, "'ff1' needs 'alphabet'"),
        ("string", {"method": "ff1", "alphabet": "greek"}, "alphabet"),
        ("string", {"method": "token", "period": "day"}, "period"),
        ("string", {"method": "mask", "visible": 5}, "visible"),
        ("string", {"method": "vocabulary"}, "'vocabulary' needs 'buckets'"),
        ("string", {"method": "vocabulary", "buckets": 4}, "'vocabulary' needs 'values'"),
        ("string", {"method": "shred"}, "method"),
        ("date", {"method": "date-shift"}, "'date-shift' needs 'days'"),
        ("date", {"method": "age", "width": 10}, "needs 'on' for a date of birth"),
        ("integer", {"method": "age", "on": date(2026, 1, 1)}, "needs 'on' for a date of birth"),
        ("integer", {"method": "bins"}, "'bins' needs 'width'"),
        ("integer", {"method": "bins", "width": 1}, "stay as they are"),
        ("number", {"method": "clamp", "lower": 1.0}, "'clamp' needs 'upper'"),
        ("number", {"method": "clamp", "lower": 1.0, "upper": 1.0}, "lower must be below upper"),
    ],
)
def test_the_keys_of_a_method_must_fit(kind: str, how: dict[str, Any], reason: str) -> None:
    refused(reason, FEATURE, LABEL, column("quasi-identifier", kind, transform=how))


def test_a_column_without_a_transform_is_dropped() -> None:
    entry = {"name": "x", "logicalType": "object", "classification": "sensitive"}
    assert contract(FEATURE, LABEL, entry).columns[2].method == "drop"


# --- one column -------------------------------------------------------------------------------------


def feature(**changes: Any) -> dict[str, Any]:
    return {**FEATURE, **changes}


def optional(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**entry, "required": False, **changes}


TEXT = column("feature", method="vocabulary")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (feature(logicalTypeOptions={"maximum": 1.0}), "needs 'logicalTypeOptions.minimum'"),
        (feature(logicalTypeOptions={"minimum": 1.0}), "needs 'logicalTypeOptions.maximum'"),
        (feature(bounds_source=None), "needs 'bounds_source'"),
        (feature(logicalTypeOptions={"minimum": 3.0, "maximum": 3.0}), "must be below maximum"),
        (feature(logicalTypeOptions={"minimum": 0.0, "maximum": float("inf")}), "finite"),
        (
            feature(
                logicalTypeOptions={"minimum": 1.0, "maximum": 4.0},
                transform={"method": "bins", "width": 5},
            ),
            "one bin holds everything",
        ),
        (
            column("feature", "boolean", "keep", bounds_source="x"),
            "bounds_source is for kept or binned",
        ),
        (
            feature(transform={"method": "clamp", "lower": 0.0, "upper": 1.0}),
            "bounds_source is for kept or binned",
        ),
        (column("feature", method="keep"), "a text becomes a feature by method 'vocabulary'"),
        (feature(train=True), "'train' is for quasi-identifier and sensitive"),
        (column("quasi-identifier", method="zip3", train=True), "of method 'zip3' is no feature"),
        (column("sensitive", train=True), "of method 'drop' is no feature"),
        (
            column("quasi-identifier", "integer", "bins", train=True),
            "needs 'logicalTypeOptions.minimum'",
        ),
        (column("sensitive", logicalTypeOptions={"minimum": 1.0}), "minimum and maximum are for"),
        (
            column("sensitive", "integer", logicalTypeOptions={"pattern": "a"}),
            "pattern is for string",
        ),
        (column("sensitive", logicalTypeOptions={"pattern": "("}), "no RE2 expression"),
        (column("sensitive", logicalTypeOptions={"pattern": "(?=a)b"}), "no RE2 expression"),
        (column("sensitive", logicalTypeOptions={"pattern": r"(a)\1"}), "no RE2 expression"),
        (column("sensitive", logicalTypeOptions={"pattern": "a)(b"}), "no RE2 expression"),
        (column("sensitive", "number", filter=True), "row rules cannot speak of .* number"),
        (column("consent", "time"), "row rules cannot speak of .* time"),
        (column("sensitive", "number", values=[1, 2]), "'values' are for string, integer"),
        (column("sensitive", values=["a", 1]), "every value must be of type string"),
        (column("sensitive", "integer", values=[True, 1]), "every value must be of type integer"),
        (column("sensitive", values=["a", "a"]), "a value is listed twice"),
        (column("sensitive", values=[]), "values"),
        (column("sensitive", values=[""]), "values"),
        (optional(FEATURE), "an optional column that is trained on needs 'impute'"),
        (feature(impute=1.0), "'impute' is for columns with required = false"),
        (optional(FEATURE, impute="1"), "'impute' must be of type number"),
        (optional(FEATURE, impute=True), "'impute' must be of type number"),
        (optional(FEATURE, impute=31.0), "'impute' is outside minimum and maximum"),
        (optional(FEATURE, impute=-1), "'impute' is outside minimum and maximum"),
        (optional(column("sensitive", "date"), impute="2026-01-01"), "must be of type date"),
        (optional(column("sensitive", values=["a"]), impute="b"), "'impute' is none of the values"),
        (optional(column("sensitive", "boolean"), impute=0), "must be of type boolean"),
        (feature(transform={"method": "bins", "width": 10**400}), "width"),
        (feature(logicalTypeOptions={"minimum": -1.7e308, "maximum": 1.0}), "minimum"),
        (column("sensitive", "integer", values=[2**63]), "values"),
        (optional(column("sensitive", "integer"), impute=-(2**63) - 1), "'impute' must be of type"),
        (column("sensitive", hipaa="shoe-size"), "hipaa"),
        (column("sensitive", gdpr="shoe-size"), "gdpr"),
        (column("sensitive", unit=""), "unit"),
        (column("sensitive", name=""), "name"),
        (column("secret"), "classification"),
        (column("sensitive", "text"), "logicalType"),
    ],
)
def test_columns_that_make_no_sense_are_refused(entry: dict[str, Any], reason: str) -> None:
    rest = (LABEL, {**FEATURE, "name": "other"})
    refused(reason, entry, *rest)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"values": None}, "at least two 'values'"),
        ({"values": ["one"]}, "at least two 'values'"),
        ({"logicalType": "number", "values": None}, "at least two 'values'"),
        ({"logicalType": "date"}, "method 'keep' is for"),
        ({"required": False}, "trained on needs 'impute'"),
        ({"required": False, "impute": "benign"}, "a label is never imputed"),
        ({"train": True}, "'train' is for"),
    ],
)
def test_a_label_has_classes_and_no_gaps(change: dict[str, Any], reason: str) -> None:
    refused(reason, FEATURE, {**LABEL, **change})


def test_what_a_column_may_say() -> None:
    made = contract(
        optional(FEATURE, impute=3),
        LABEL,
        optional(TEXT, impute="unheard of"),
        column(
            "sensitive",
            name="y",
            hipaa="none",
            gdpr="none",
            logicalTypeOptions={"pattern": r"\pL+"},
        ),
        column("consent", "boolean", name="consent"),
        column("quasi-identifier", "integer", name="age", filter=True),
    )
    assert made.columns[0].impute == 3
    assert [item.name for item in made.columns if item.filters] == ["consent", "age"]


# --- the whole contract -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ((FEATURE, column("identifier")), "exactly one column has class 'label'"),
        ((FEATURE, {**LABEL, "transform": {"method": "drop"}}), "exactly one column has class"),
        ((FEATURE, LABEL, {**LABEL, "name": "second"}), "exactly one column has class 'label'"),
        ((column("identifier"), LABEL), "at least one column is a feature"),
        ((feature(transform={"method": "drop"}, bounds_source=None), LABEL), "at least one column"),
        ((FEATURE, LABEL, FEATURE), "'radius' is declared twice"),
        ((LABEL,), "properties"),
        (
            (TEXT, feature(name="x=a"), LABEL),
            "two features would be named 'x=a'",
        ),
        ((TEXT, feature(name="x#0"), LABEL), "two features would be named 'x#0'"),
        ((TEXT, {**LABEL, "name": "x=b"}), "two features would be named 'x=b'"),
    ],
)
def test_a_contract_has_features_and_one_label(columns: tuple[Any, ...], reason: str) -> None:
    refused(reason, *columns)


SENSITIVE = column("sensitive", method="prefix", name="origin")


@pytest.mark.parametrize(
    ("columns", "changes", "reason"),
    [
        ((SHIFTED,), {}, "column 'x': method 'date-shift' needs 'entity'"),
        ((PERSON,), {"entity": "nobody"}, "there is no column 'nobody'"),
        ((column("identifier"),), {"entity": "x"}, "column 'x' needs the method 'token'"),
        ((optional(PERSON),), {"entity": "person"}, "column 'person' needs required = true"),
        ((), {"anonymity": {"k": 5}}, "no quasi-identifier is left"),
        ((column("quasi-identifier"),), {"anonymity": {"k": 5}}, "no quasi-identifier is left"),
        ((ZIP,), {"anonymity": {"k": 1}}, "anonymity.k"),
        ((ZIP,), {"anonymity": {"k": 5, "l": 2}}, "l needs a sensitive column"),
        ((ZIP,), {"anonymity": {"k": 5, "violation": "ignore"}}, "anonymity.violation"),
        ((), {"apiVersion": "v3.0.2"}, "apiVersion"),
        ((), {"kind": "DataProduct"}, "kind"),
        ((), {"status": "final"}, "status"),
        ((), {"version": "one two"}, "version"),
        ((), {"name": "Diagnosis"}, "name"),
        ((), {"population": "All"}, "population"),
        ((), {"allowed_regions": []}, "allowed_regions"),
        ((), {"lawful_basis": "because"}, "lawful_basis"),
        ((), {"retention": "2030-01-01"}, "retention"),
        ((), {"invalid_rows": "ignore"}, "invalid_rows"),
        ((), {"canaries": ["short"]}, "canaries"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(
    columns: tuple[Any, ...], changes: dict[str, Any], reason: str
) -> None:
    refused(reason, FEATURE, LABEL, *columns, **changes)


def test_what_a_contract_may_say() -> None:
    made = contract(
        *(FEATURE, LABEL, PERSON, SHIFTED, {**ZIP, "name": "zip"}, SENSITIVE),
        entity="person",
        anonymity={"k": 5, "l": 2},
        retention=date(2030, 12, 31),
        lawful_basis="public-task",
        allowed_regions=["eu"],
        status="draft",
    )
    assert made.quasi_identifiers == ("x", "zip")
    assert made.population == "everyone"


# --- schema -----------------------------------------------------------------------------------------


def test_the_schema_holds_the_features_in_order() -> None:
    flag = column("feature", "boolean", "keep", name="smoker")
    unused = column("feature", "integer", name="unused")
    age = column("quasi-identifier", "integer", "age", name="age", train=True)
    top = column("feature", "integer", "clamp", name="top")
    bins = {**FEATURE, "name": "bins", "transform": {"method": "bins", "width": 4}, "unit": "mm"}
    coarse = column("quasi-identifier", "integer", "bins", name="only-for-anonymity")
    text = {**TEXT, "transform": {"method": "vocabulary", "buckets": 2}}
    schema = contract(
        *(column("identifier", name="id"), LABEL, flag, unused, age, top, bins, coarse, text)
    ).schema()
    assert schema.features == (
        FeatureColumn("smoker", 0.0, 1.0),
        FeatureColumn("age", 0.0, 90.0),
        FeatureColumn("top", 0.0, 9.0),
        FeatureColumn("bins", 0.0, 28.0, "mm"),
        FeatureColumn("x=a", 0.0, 1.0),
        FeatureColumn("x=b", 0.0, 1.0),
        FeatureColumn("x#0", 0.0, 1.0),
        FeatureColumn("x#1", 0.0, 1.0),
    )
    assert (schema.label, schema.classes) == ("diagnosis", ("benign", "malignant"))


@pytest.mark.parametrize("method", sorted(FEATURE_METHODS))
def test_every_feature_has_public_bounds(method: str) -> None:
    kind = {"keep": "boolean", "age": "integer"}.get(method, kind_for(method))
    entry = column("feature", kind, method)
    if method == "bins":
        entry |= {"bounds_source": "x", "logicalTypeOptions": {"minimum": -7, "maximum": 7}}
    for item in contract(LABEL, entry).schema().features:
        assert item.lower < item.upper


@pytest.mark.parametrize(
    ("kind", "values", "classes"),
    [("integer", [2, 0], ("2", "0")), ("boolean", [False, True], ("false", "true"))],
)
def test_classes_are_text(kind: str, values: list[Any], classes: tuple[str, ...]) -> None:
    schema = contract(FEATURE, {**LABEL, "logicalType": kind, "values": values}).schema()
    assert schema.classes == classes


# --- file -------------------------------------------------------------------------------------------

TOML = (
    'apiVersion = "v3.1.0"\nname = "d"\n[server]\ntype = "local"\npath = "x"\nformat = "csv"\n'
    '[[properties]]\nname = "x"\nlogicalType = "number"\nclassification = "feature"\n'
)


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        (TOML + "[properties.transfrom]\n", "properties.0.transfrom", "transform"),
        (TOML + 'transform = { methd = "drop" }\n', "properties.0.transform.methd", "method"),
        (TOML + "logicalTypeOptions = { minimun = 1 }\n", "logicalTypeOptions.minimun", "minimum"),
        (TOML.replace("logicalType", "logicaltype"), "properties.0.logicaltype", "logicalType"),
        (TOML.replace("format", "fromat"), "server.fromat", "format"),
        ("apiversion = 1\n" + TOML, "apiversion", "apiVersion"),
    ],
)
def test_load_names_the_nearest_key(tmp_path: Path, text: str, key: str, nearest: str) -> None:
    path = tmp_path / "contract.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"unknown key '.*{key}'.*did you mean '{nearest}'"):
        Contract.load(path)


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "contract.toml"
    text = 'apiVersion = "v3.1.0"\nname = "d"\nserver = { type = "local", path = "x", format = "csv" }\n'
    for entry in (FEATURE, LABEL):
        lines = {key: json.dumps(value) for key, value in entry.items()}
        lines["transform"] = '{ method = "keep" }'
        if entry is FEATURE:
            lines["logicalTypeOptions"] = "{ maximum = 30.0, minimum = 0 }"
        text += "[[properties]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
    digests = []
    for content in (text, "# comment\n" + text.replace("30.0", "30"), text.replace("30.0", "31")):
        path.write_text(content)
        digests.append(Contract.load(path).digest)
    assert digests[0] == digests[1] != digests[2]


def test_an_integer_beyond_json_has_a_digest() -> None:
    large = {**LABEL, "logicalType": "integer", "values": [0, 2**60]}
    larger = {**LABEL, "logicalType": "integer", "values": [0, 2**60 + 1]}
    assert contract(FEATURE, large).digest != contract(FEATURE, larger).digest


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
    narrow = {**FEATURE, "logicalTypeOptions": {"minimum": 0.0, "maximum": 9.0}}
    for theirs, words in [
        (contract(second, LABEL).schema(), "feature 1 is 'radius' here and 'texture' there"),
        (contract(narrow, LABEL).schema(), "0.0 to 30.0 here and 0.0 to 9.0"),
        (contract(FEATURE, second, LABEL).schema(), "only one side has 'texture'"),
        (contract({**FEATURE, "unit": "mm"}, LABEL).schema(), "in no unit here and in mm there"),
        (contract(FEATURE, {**LABEL, "name": "y"}).schema(), "'diagnosis' here and 'y' there"),
        (contract(FEATURE, {**LABEL, "values": ["a", "b"]}).schema(), "classes benign, malignant"),
    ]:
        assert words in schema_difference(ours, theirs)
