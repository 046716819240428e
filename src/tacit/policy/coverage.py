"""The coverage matrix of a contract: every HIPAA identifier and GDPR special category, and its fate.

It speaks of what the contract says and of what names of columns suggest; it never sees data. It is no
legal opinion: Safe Harbor also asks that nobody knows how to identify a person from what is left, and
that identifiers of relatives, employers and household members are removed as well.

Reference: 45 CFR 164.514(b)(2); HHS, "Guidance Regarding Methods for De-identification of Protected
Health Information", 2012; Regulation (EU) 2016/679, Art. 4(5), 6, 9 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, cast, get_args

from tacit.policy.column import NUMERIC, OLDEST, Category, Column
from tacit.policy.contract import Contract
from tacit.policy.hipaa import HipaaIdentifier
from tacit.policy.names import (
    about_age,
    about_birth,
    about_year,
    suggested_category,
    suggested_identifier,
)
from tacit.policy.wording import treatment

__all__ = ["VERDICTS", "Coverage", "Holding", "Line", "Verdict", "coverage", "warnings"]

Verdict = Literal["absent", "removed", "safe harbor", "pseudonym", "in use", "exposed", "suspected"]
Law = Literal["HIPAA", "GDPR"]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""From harmless to not; a line has the last one of its columns.

``absent``: no column holds it. ``removed``: nothing of it is left. ``safe harbor``: coarser as the rule
itself allows. ``pseudonym``: under another name or moved, which is not Safe Harbor but may satisfy an
expert (45 CFR 164.514(b)(1)), and is pseudonymised under GDPR Art. 4(5): still personal data.
``in use``: a special category that is processed, which needs a condition of Art. 9(2), or for Art. 10
its own. ``exposed``: an identifier, whole or coarser in a way that the rule does not allow.
``suspected``: a name that looks like it, undeclared, and its values are left.
"""

BAD: tuple[Verdict, ...] = ("exposed", "suspected")

_PSEUDONYMS = ("token", "ff1", "mask", "date-shift")
_SAFE_HARBOR = "45 CFR 164.514(b)(2)(i)"

_TITLES: dict[HipaaIdentifier, str] = {
    "name": "names",
    "geography": "geography below the state",
    "date": "dates, and ages over 89",
    "telephone": "telephone numbers",
    "fax": "fax numbers",
    "email": "e-mail addresses",
    "social-security-number": "social security numbers",
    "medical-record-number": "medical record numbers",
    "health-plan-number": "health plan numbers",
    "account-number": "account numbers",
    "licence-number": "certificate and licence numbers",
    "vehicle": "vehicles, licence plates",
    "device": "devices, serial numbers",
    "url": "web addresses (URLs)",
    "ip-address": "IP addresses",
    "biometric": "biometric identifiers",
    "photograph": "full-face photographs",
    "other": "any other unique code",
}

_CATEGORY_TITLES: dict[Category, str] = {
    "racial-or-ethnic-origin": "racial or ethnic origin",
    "political-opinions": "political opinions",
    "religious-or-philosophical-beliefs": "religious or philosophical beliefs",
    "trade-union-membership": "trade union membership",
    "genetic": "genetic data",
    "biometric": "identifying biometric data",
    "health": "data concerning health",
    "sex-life-or-sexual-orientation": "sex life or sexual orientation",
    "criminal-convictions": "criminal convictions, offences",
}

_RULES: dict[HipaaIdentifier, str] = {
    "geography": "the first three digits of a ZIP code are allowed where more than 20,000 people live, "
    "else 000 (B)",
    "date": "the year is allowed unless it tells an age over 89; ages of 90 and above are one group (C)",
    "other": "a code is allowed only if it is not derived from the person's data (R, 164.514(c)(1))",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """One column that holds, or may hold, what a line is about.

    Args:
        column: Its name.
        declared: Whether the contract says so; otherwise its name or type does.
        treatment: What becomes of it, in words.
        verdict: What that means.
        note: Why, with the reference; empty where there is nothing to explain.
    """

    column: str
    declared: bool
    treatment: str
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One identifier or category.

    Args:
        law: Which law lists it.
        key: Its name in the contract.
        title: Its name for people.
        reference: Where the law lists it.
        rule: What the law allows to be left; empty where nothing.
        columns: The columns that hold it, in the contract's order.
    """

    law: Law
    key: str
    title: str
    reference: str
    rule: str
    columns: tuple[Holding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst one of its columns."""
        return max((item.verdict for item in self.columns), key=VERDICTS.index, default="absent")

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "law": self.law,
            "key": self.key,
            "reference": self.reference,
            "verdict": self.verdict,
            "columns": [
                {
                    "column": item.column,
                    "declared": item.declared,
                    "treatment": item.treatment,
                    "verdict": item.verdict,
                    "note": item.note,
                }
                for item in self.columns
            ],
        }


@dataclass(frozen=True, slots=True)
class Coverage:
    """The whole matrix.

    Args:
        contract: Name of the contract.
        public: Whether anyone may see every record; then nothing of it is a fault.
        lines: The 18 identifiers in the order of the rule, then the 9 categories.
    """

    contract: str
    public: bool
    lines: tuple[Line, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is exposed or suspected, or everything is public."""
        return self.public or not self.faults

    @property
    def faults(self) -> tuple[Line, ...]:
        """The lines that are exposed or suspected."""
        return tuple(line for line in self.lines if line.verdict in BAD)

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "contract": self.contract,
            "public": self.public,
            "passed": self.passed,
            "lines": [line.record() for line in self.lines],
        }


def coverage(contract: Contract) -> Coverage:
    """The matrix of one contract: 18 lines for HIPAA, 9 for the GDPR.

    A column that nobody declared, but whose name (or type: every date) looks like an identifier, counts
    as one; if its values are left, its line is ``suspected``. Columns that the contract calls
    ``synthetic`` are about nobody, and count only where they are declared.
    """
    identifiers = tuple(
        Line(
            "HIPAA",
            key,
            _TITLES[key],
            f"{_SAFE_HARBOR}({chr(ord('A') + number)})",
            _RULES.get(key, ""),
            _holdings(contract, key, _identifier, _identifier_verdict),
        )
        for number, key in enumerate(cast("tuple[HipaaIdentifier, ...]", get_args(HipaaIdentifier)))
    )
    categories = tuple(
        Line(
            "GDPR",
            key,
            _CATEGORY_TITLES[key],
            "GDPR Art. 10" if key == "criminal-convictions" else "GDPR Art. 9(1)",
            "",
            _holdings(contract, key, _category, _category_verdict),
        )
        for key in cast("tuple[Category, ...]", get_args(Category))
    )
    return Coverage(contract.name, contract.public, (*identifiers, *categories))


Found = tuple[str, bool] | None
Judged = tuple[Verdict, str]


def _holdings(
    contract: Contract,
    key: str,
    find: Callable[[Column], Found],
    judge: Callable[[Column, str], Judged],
) -> tuple[Holding, ...]:
    result = []
    for column in contract.columns:
        found = find(column)
        if found is None or found[0] != key:
            continue
        _, declared = found
        verdict, note = _gone(column) or judge(column, key)
        if not declared and verdict in ("exposed", "in use"):
            law = "hipaa" if find is _identifier else "gdpr"
            verdict, note = "suspected", f'declare {law} = "{key}" or "none"'
        words = treatment(column, entity=column.name == contract.entity)
        if column.filters and column.method == "drop":
            words += "; decoded for row rules only"
        result.append(Holding(column.name, declared, words, verdict, note))
    return tuple(result)


def _identifier(column: Column) -> Found:
    """The identifier that a column holds, and whether that is declared."""
    if column.hipaa is not None:
        return (column.hipaa, True)
    if column.synthetic:
        return None
    dated = column.logical_type in ("date", "timestamp") or column.method == "age"
    found = "date" if dated else suggested_identifier(column.name)
    if found is None and column.classification == "identifier":
        found = "other"
    return None if found is None else (found, False)


def _category(column: Column) -> Found:
    if column.gdpr is not None:
        return (column.gdpr, True)
    found = None if column.synthetic else suggested_category(column.name)
    return None if found is None else (found, False)


def _gone(column: Column) -> Judged | None:
    """The verdict on what nothing is left of."""
    if column.method == "drop":
        return "removed", ""
    if column.method == "quarantine":
        return "removed", "only rows in which it is empty are used"
    if column.method == "mask" and not column.transform.visible:
        return "removed", ""
    return None


def _identifier_verdict(column: Column, key: str) -> Judged:
    if column.method in _PSEUDONYMS:
        return "pseudonym", _pseudonym_note(column)
    if key == "geography" and column.method == "zip3":
        return "safe harbor", ""
    if key == "date":
        return _date_verdict(column)
    if key == "geography" and column.method == "prefix":
        return "exposed", "method 'zip3' has the 20,000 people rule, 'prefix' has not"
    return "exposed", f"not allowed by {_SAFE_HARBOR}"


def _pseudonym_note(column: Column) -> str:
    if column.method == "mask":
        return (
            "the last characters are a part of the identifier: not Safe Harbor (HHS guidance, 2012)"
        )
    if column.method == "date-shift":
        return "a moved date is still a date: not Safe Harbor; needs an expert (164.514(b)(1))"
    return "derived from the identifier: not Safe Harbor; needs an expert (164.514(b)(1), (c)(1))"


def _date_verdict(column: Column) -> Judged:
    """Rule (C): no part of a date but the year, and no year and no age that tells of one over 89."""
    if column.method == "age":
        return "safe harbor", ""
    if column.logical_type in NUMERIC and about_age(column.name):
        if _ages_are_grouped(column):
            return "safe harbor", ""
        return "exposed", "ages over 89 must be one group: use method 'age' (C)"
    a_year = column.logical_type == "integer" and about_year(column.name)
    if not a_year and column.method not in ("year", "decade"):
        return "exposed", f"only the year is allowed, {_SAFE_HARBOR}(C)"
    if about_birth(column.name):
        return "exposed", "a year of birth tells ages over 89: use method 'age' (C)"
    return "safe harbor", "not for a date of birth, whose year tells ages over 89"


def _ages_are_grouped(column: Column) -> bool:
    """Whether all ages of 90 and above that can occur have the same result."""
    if column.method == "clamp":
        return column.transform.upper is not None and column.transform.upper <= OLDEST
    highest = column.options.maximum
    if highest is None or highest < OLDEST:
        return highest is not None
    width = column.transform.width
    if column.method != "bins" or width is None:
        return False
    return OLDEST // width == highest // width


def _category_verdict(column: Column, key: str) -> Judged:
    if column.method in _PSEUDONYMS:
        return "pseudonym", "pseudonymised (Art. 4(5)): still personal data"
    if key == "criminal-convictions":
        return "in use", "only under official authority or a law that permits it (Art. 10)"
    return "in use", "needs a condition of Art. 9(2) beside the lawful basis of Art. 6"


def warnings(contract: Contract, today: date) -> tuple[str, ...]:
    """What a person should think about before the contract is used; none of it is an error.

    Args:
        contract: The contract.
        today: Decides whether the last day of use is over.
    """
    found = []
    if contract.status not in ("active", "deprecated"):
        found.append(f"status is '{contract.status}': no job can use it until it is 'active'")
    if contract.retention is not None and contract.retention < today:
        found.append(f"retention: the last day of use was {contract.retention.isoformat()}")
    if contract.public:
        return tuple(found)
    return (*found, *_missing(contract), *_risky(contract))


def _missing(contract: Contract) -> Iterator[str]:
    if contract.lawful_basis is None:
        yield "lawful_basis is missing: no policy can ask for it (GDPR Art. 6(1))"
    if contract.retention is None:
        yield "retention is missing: the data may be used without end (GDPR Art. 5(1)(e))"
    if contract.region is None:
        yield "region is missing: the region of the site counts"
    if contract.entity is None:
        yield "entity is missing: privacy counts records, not the people who may have several"
    consents = any(column.classification == "consent" for column in contract.columns)
    if contract.lawful_basis == "consent" and not consents:
        yield "lawful_basis is consent, but no column of class 'consent' says who gave it"


def _risky(contract: Contract) -> Iterator[str]:
    columns = contract.columns
    trained = [c.name for c in columns if c.classification == "quasi-identifier" and c.train]
    if trained and contract.anonymity is None:
        yield f"trained on without [anonymity], quasi-identifiers: {', '.join(trained)}"
    if contract.anonymity is not None and contract.anonymity.violation == "suppress":
        yield "anonymity.violation is 'suppress': runs with differential privacy refuse that"
    texts = [column.name for column in columns if column.method == "quarantine"]
    if texts:
        yield f"rows with free text in them are set aside: {', '.join(texts)}"
    filters = [column.name for column in columns if column.filter and column.method == "drop"]
    if filters:
        yield f"dropped, but decoded for the policy's row rules: {', '.join(filters)}"
