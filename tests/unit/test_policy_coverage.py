from __future__ import annotations

from datetime import date
from typing import Any, get_args

import pytest

from tacit.policy.column import Category
from tacit.policy.coverage import VERDICTS, Line, coverage, warnings
from tacit.policy.hipaa import HipaaIdentifier
from tacit.policy.names import suggested_category, suggested_identifier
from tacit.testing.contracts import FEATURE, LABEL, PERSON, SHIFTED, ZIP, column, contract

DIAGNOSIS = {**LABEL, "gdpr": "health"}
TODAY = date(2026, 11, 26)


def line(key: str, entry: dict[str, Any], law: str = "HIPAA", **changes: Any) -> Line:
    """The line about one column; nothing else in the contract is about anything."""
    extra = {} if entry["transform"]["method"] != "date-shift" else {"entity": "person"}
    columns = [FEATURE, DIAGNOSIS, *([PERSON] if extra else []), entry]
    found = coverage(contract(*columns, **extra, **changes))
    (result,) = [item for item in found.lines if (item.law, item.key) == (law, key)]
    return result


def test_every_identifier_and_category_has_a_line_in_the_order_of_the_law() -> None:
    lines = coverage(contract(FEATURE, DIAGNOSIS)).lines
    assert [item.key for item in lines] == [*get_args(HipaaIdentifier), *get_args(Category)]
    assert [item.reference for item in lines[:18]] == [
        f"45 CFR 164.514(b)(2)(i)({letter})" for letter in "ABCDEFGHIJKLMNOPQR"
    ]
    assert {item.reference for item in lines[18:26]} == {"GDPR Art. 9(1)"}
    assert lines[26].reference == "GDPR Art. 10"
    verdicts = {item.key: item.verdict for item in lines if item.verdict != "absent"}
    assert verdicts == {"health": "in use"}


@pytest.mark.parametrize("key", sorted(set(get_args(HipaaIdentifier)) - {"geography", "date"}))
@pytest.mark.parametrize(
    ("classification", "method", "verdict"),
    [
        ("identifier", "drop", "removed"),
        ("identifier", "mask", "removed"),
        ("free-text", "quarantine", "removed"),
        ("identifier", "token", "pseudonym"),
        ("identifier", "ff1", "pseudonym"),
        ("quasi-identifier", "prefix", "exposed"),
        ("quasi-identifier", "zip3", "exposed"),
        ("feature", "vocabulary", "exposed"),
    ],
)
def test_nothing_may_be_left_of_an_identifier(
    key: str, classification: str, method: str, verdict: str
) -> None:
    entry = column(classification, method=method, hipaa=key)
    assert line(key, entry).verdict == verdict


def test_a_mask_that_shows_the_end_is_no_safe_harbor() -> None:
    how = {"method": "mask", "visible": 4}
    found = line("social-security-number", column("identifier", transform=how, name="ssn"))
    assert found.verdict == "pseudonym"
    assert "last characters are a part" in found.columns[0].note


@pytest.mark.parametrize(
    ("method", "verdict"),
    [
        ("drop", "removed"),
        ("zip3", "safe harbor"),
        ("prefix", "exposed"),
        ("vocabulary", "exposed"),
        ("token", "pseudonym"),
    ],
)
def test_of_geography_only_zip3_is_left(method: str, verdict: str) -> None:
    found = line("geography", column("quasi-identifier", method=method, hipaa="geography"))
    assert found.verdict == verdict
    assert "20,000" in found.rule


def aged(method: str = "keep", maximum: float | None = None, **how: Any) -> dict[str, Any]:
    options = {} if maximum is None else {"minimum": 0, "maximum": maximum}
    entry = {
        "name": "age",
        "logicalType": "integer",
        "classification": "feature",
        "transform": {"method": method, **how},
        "logicalTypeOptions": options,
        "hipaa": "date",
    }
    if method in ("keep", "bins"):
        entry["bounds_source"] = "law"
    return entry


BORN = {"name": "birth_date", "hipaa": "date"}


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        (column("quasi-identifier", "date"), "removed"),
        (column("quasi-identifier", "date", "year"), "safe harbor"),
        (column("quasi-identifier", "timestamp", "decade"), "safe harbor"),
        (column("quasi-identifier", "date", "year", **BORN), "exposed"),
        (column("quasi-identifier", "date", "decade", **BORN), "exposed"),
        (
            column("quasi-identifier", "date", transform={"method": "age", "on": TODAY}, **BORN),
            "safe harbor",
        ),
        (SHIFTED, "pseudonym"),
        (column("quasi-identifier", "date", "token"), "pseudonym"),
        (aged("age"), "safe harbor"),
        (aged("keep", 120), "exposed"),
        (aged("keep", 90), "exposed"),
        (aged("keep", 89), "safe harbor"),
        (aged("clamp", lower=0.0, upper=90.0), "safe harbor"),
        (aged("clamp", lower=0.0, upper=91.0), "exposed"),
        (aged("bins", 99, width=10), "safe harbor"),
        (aged("bins", 100, width=10), "exposed"),
        (aged("bins", 110, width=4), "exposed"),
        ({**aged("keep", 89), "name": "day"}, "exposed"),
        ({**aged("keep", 2030), "name": "admission_year"}, "safe harbor"),
        ({**aged("keep", 2030), "name": "year_of_birth"}, "exposed"),
        ({**aged("keep", 12), "name": "birth_month"}, "exposed"),
    ],
)
def test_of_dates_only_years_are_left_that_tell_no_age_over_89(
    entry: dict[str, Any], verdict: str
) -> None:
    assert line("date", entry).verdict == verdict


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        (column("sensitive"), "removed"),
        (column("sensitive", method="token"), "pseudonym"),
        (column("sensitive", method="prefix"), "in use"),
        (column("feature", method="vocabulary"), "in use"),
    ],
)
@pytest.mark.parametrize("key", sorted(get_args(Category)))
def test_a_special_category_is_in_use_until_it_is_gone(
    key: str, entry: dict[str, Any], verdict: str
) -> None:
    found = line(key, {**entry, "gdpr": key}, "GDPR")
    assert [item.verdict for item in found.columns if item.column == "x"] == [verdict]
    note = found.columns[-1].note
    if verdict == "in use":
        assert ("Art. 10" if key == "criminal-convictions" else "Art. 9(2)") in note


# --- what nobody declared ---------------------------------------------------------------------------


def test_an_undeclared_column_whose_values_are_left_is_suspected() -> None:
    entry = column("quasi-identifier", method="prefix", name="city")
    found = line("geography", entry)
    assert (found.verdict, found.columns[0].declared) == ("suspected", False)
    assert 'hipaa = "geography" or "none"' in found.columns[0].note
    assert line("geography", {**entry, "hipaa": "geography"}).verdict == "exposed"
    assert line("geography", {**entry, "hipaa": "none"}).verdict == "absent"
    assert line("geography", {**entry, "synthetic": True}).verdict == "absent"


@pytest.mark.parametrize(
    ("entry", "key", "verdict"),
    [
        (column("identifier", name="patient_name"), "name", "removed"),
        (column("identifier", name="ssn", method="token"), "social-security-number", "pseudonym"),
        (column("quasi-identifier", name="zip", method="zip3"), "geography", "safe harbor"),
        (column("quasi-identifier", "date", "token", name="seen"), "date", "pseudonym"),
        (column("identifier", name="key", method="token"), "other", "pseudonym"),
    ],
)
def test_what_was_done_right_needs_no_declaration(
    entry: dict[str, Any], key: str, verdict: str
) -> None:
    found = line(key, entry)
    assert (found.verdict, found.columns[0].declared) == (verdict, False)


def test_a_line_has_the_worst_verdict_of_its_columns() -> None:
    gone = column("identifier", name="street", hipaa="geography")
    lines = coverage(contract(FEATURE, DIAGNOSIS, gone, {**ZIP, "hipaa": "geography"})).lines
    assert lines[1].verdict == "safe harbor"
    assert [item.verdict for item in lines[1].columns] == ["removed", "safe harbor"]
    assert VERDICTS.index("removed") < VERDICTS.index("safe harbor") < VERDICTS.index("exposed")


def test_what_is_exposed_or_suspected_is_a_fault_unless_it_is_public() -> None:
    entry = column("quasi-identifier", method="prefix", name="city")
    for columns, passed in [((FEATURE, DIAGNOSIS), True), ((FEATURE, DIAGNOSIS, entry), False)]:
        assert coverage(contract(*columns)).passed is passed
        assert coverage(contract(*columns, public=True)).passed
    found = coverage(contract(FEATURE, LABEL))
    assert [item.key for item in found.faults] == ["health"]


def test_the_record_says_what_the_lines_say() -> None:
    record = coverage(contract(FEATURE, DIAGNOSIS)).record()
    assert (record["passed"], len(record["lines"])) == (True, 27)
    assert record["lines"][24] == {
        "law": "GDPR",
        "key": "health",
        "reference": "GDPR Art. 9(1)",
        "verdict": "in use",
        "columns": [
            {
                "column": "diagnosis",
                "declared": True,
                "treatment": "kept as one of benign, malignant",
                "verdict": "in use",
                "note": "needs a condition of Art. 9(2) beside the lawful basis of Art. 6",
            }
        ],
    }


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("name", "name patient_name LastName first.name Nachname prénom apellidos maidenName"),
        ("geography", "zip ZIP5 city street_address Straße PLZ code_postal ciudad latitude"),
        ("date", "dob admit_date DateOfBirth Geburtsdatum fecha_nacimiento age age_at_admission"),
        ("telephone", "phone mobile_number Telefon tel"),
        ("fax", "fax fax_number"),
        ("email", "email e-mail EmailAddress correo"),
        ("social-security-number", "ssn social_security_no Sozialversicherungsnummer"),
        ("medical-record-number", "MRN medical_record chart_no Patientennummer"),
        ("health-plan-number", "insurance_id memberId medicare_no Versichertennummer"),
        ("account-number", "account_no IBAN credit_card Kontonummer"),
        ("licence-number", "drivers_license certificate_number Führerschein"),
        ("vehicle", "vin license_plate Kennzeichen"),
        ("device", "device_id serial_number UDI mac_address"),
        ("url", "url web_site"),
        ("ip-address", "ip ip_address IPv4 client_ip"),
        ("biometric", "fingerprint voice_print"),
        ("photograph", "photo face_image Lichtbild"),
        ("other", "patient_id PatientID id subject_id encounter_id NHSNumber passport"),
        (None, "radius drug_name hospital_name stage birth_weight recipient dosage state lateral"),
    ],
)
def test_names_suggest_identifiers(key: str | None, names: str) -> None:
    assert {name: suggested_identifier(name) for name in names.split()} == dict.fromkeys(
        names.split(), key
    )


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("racial-or-ethnic-origin", "race EthnicGroup ethnie"),
        ("political-opinions", "political_party voter Parteizugehörigkeit"),
        ("religious-or-philosophical-beliefs", "religion Konfession faith"),
        ("trade-union-membership", "union_member Gewerkschaft trade_union"),
        ("genetic", "genotype BRCA1 snp_12 mutations"),
        ("biometric", "fingerprint face_embedding"),
        ("health", "diagnosis ICD10 hba1c HbA1c smoker systolic_bp Medikament"),
        ("sex-life-or-sexual-orientation", "sexual_orientation"),
        ("criminal-convictions", "criminal_record Vorstrafen incarceration"),
        (None, "radius sex gender union_of_bone std trace"),
    ],
)
def test_names_suggest_categories(key: str | None, names: str) -> None:
    assert {name: suggested_category(name) for name in names.split()} == dict.fromkeys(
        names.split(), key
    )


# --- warnings ---------------------------------------------------------------------------------------

COMPLETE: dict[str, Any] = {
    "entity": "person",
    "lawful_basis": "public-task",
    "retention": date(2030, 1, 1),
    "region": "eu",
}
AGE = column("quasi-identifier", "integer", "age", name="age", train=True)


def test_a_complete_contract_has_no_warning() -> None:
    assert warnings(contract(FEATURE, DIAGNOSIS, PERSON, **COMPLETE), TODAY) == ()


@pytest.mark.parametrize(
    ("columns", "changes", "text"),
    [
        ((), {"entity": None}, "entity is missing"),
        ((), {"lawful_basis": None}, "lawful_basis is missing"),
        ((), {"lawful_basis": "consent"}, "no column of class 'consent'"),
        ((), {"retention": None}, "retention is missing"),
        ((), {"retention": date(2026, 11, 25)}, "the last day of use was 2026-11-25"),
        ((), {"region": None}, "region is missing"),
        ((), {"status": "draft"}, "status is 'draft'"),
        ((AGE,), {}, "without [anonymity], quasi-identifiers: age"),
        ((AGE,), {"anonymity": {"k": 5, "violation": "suppress"}}, "'suppress'"),
        ((column("free-text", method="quarantine"),), {}, "rows with free text"),
        ((column("sensitive", filter=True),), {}, "decoded for the policy's row rules: x"),
    ],
)
def test_a_warning_for_each_thing_to_think_about(
    columns: tuple[Any, ...], changes: dict[str, Any], text: str
) -> None:
    made = contract(FEATURE, DIAGNOSIS, PERSON, *columns, **{**COMPLETE, **changes})
    (found,) = warnings(made, TODAY)
    assert text in found


def test_the_last_day_of_use_is_a_day_of_use() -> None:
    made = contract(FEATURE, DIAGNOSIS, PERSON, **{**COMPLETE, "retention": TODAY})
    assert warnings(made, TODAY) == ()


def test_public_data_need_no_basis() -> None:
    assert warnings(contract(FEATURE, DIAGNOSIS, AGE, public=True), TODAY) == ()
