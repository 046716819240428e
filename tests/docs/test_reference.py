"""docs/reference says what the code says: every key, command, attribute, claim, event, error, member."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import Field

from tacit import errors
from tacit.config import Table
from tacit.engine.nats.network import NetworkFile
from tacit.engine.witnesses import WitnessesFile
from tacit.evidence import layout
from tacit.party.config import SiteConfig
from tacit.party.job import JobSpec
from tacit.policy.column import ALLOWED_METHODS
from tacit.policy.contract import Contract
from tacit.policy.transform import METHODS
from tacit.trust.roster import RosterFile

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "reference").glob("*.md"))
FILES = [JobSpec, SiteConfig, Contract, RosterFile, NetworkFile, WitnessesFile]


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "generate_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = load_generator()


def undescribed(model: type[Table]) -> Iterator[str]:
    for heading, text, keys in generator.tables(model):
        if not text:
            yield heading
        for key in keys:
            if not re.search(r"\w.*\.$", key["meaning"]):
                yield f"{heading} {key['key']}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_up_to_date(page: Path) -> None:
    text = page.read_text("utf-8")
    assert generator.rendered(text) == text, "run: python docs/generate_reference.py"


def test_every_generated_part_has_its_place() -> None:
    placed = [name for page in PAGES for _, name, _ in generator.SECTION.findall(page.read_text())]
    assert sorted(placed) == sorted(generator.SECTIONS)


@pytest.mark.parametrize("model", FILES, ids=lambda model: model.__name__)
def test_every_key_is_described(model: type[Table]) -> None:
    assert list(undescribed(model)) == []


def test_every_table_and_key_is_listed() -> None:
    listed = {
        heading: [key["key"] for key in keys] for heading, _, keys in generator.tables(Contract)
    }
    tables = {"", "[server]", "[anonymity]", "[[properties]]"}
    assert set(listed) == tables | {"[properties.transform]", "[properties.logicalTypeOptions]"}
    assert {"`classification`", "`bounds_source`"} <= set(listed["[[properties]]"])
    assert "`endpointUrl`" in listed["[server]"]


def test_every_class_and_method_is_listed() -> None:
    classes, methods = generator.classes(), generator.methods()
    assert re.findall(r"^\| `([a-z-]+)`", classes, re.MULTILINE) == list(ALLOWED_METHODS)
    assert re.findall(r"^\| `([a-z0-9-]+)`", methods, re.MULTILINE) == list(METHODS)
    assert (
        "| `age` | `date`, `integer` | `on` (optional), `width` (optional) | yes | no |" in methods
    )


def test_a_planted_key_without_a_description_is_found() -> None:
    class Inner(Table):
        """An inner table."""

        told: int = Field(0, description="A number.")
        untold: int = 0

    class File(Table):
        """A file."""

        inner: Inner = Inner()

    assert list(undescribed(File)) == ["[inner] `untold`"]


def test_types_defaults_and_limits_are_those_of_the_model() -> None:
    class File(Table):
        """A file."""

        rate: float | None = Field(None, gt=0, le=1, description="A rate.")
        name: str = Field("x", min_length=1, max_length=8, description="A name.")
        size: int = Field(description="A size.")

    ((_, _, keys),) = generator.tables(File)
    found = [(key["type"], key["default"], key["limits"]) for key in keys]
    assert found == [
        ("number", "none", "> 0, ≤ 1"),
        ("string", '`"x"`', "1 to 8 characters"),
        ("integer", "required", ""),
    ]


def test_every_error_class_is_explained() -> None:
    text = (DOCS / "reference" / "errors.md").read_text("utf-8")
    assert {*re.findall(r"^\| `(\w+)`", text, re.MULTILINE), "TacitError"} == set(errors.__all__)


def test_every_member_of_a_bundle_is_explained() -> None:
    text = (DOCS / "reference" / "bundle.md").read_text("utf-8")
    shown = re.findall(
        r"`((?:transcript|model|logs|policy|statements)/[^`]+|[\w.]+\.(?:json|sig))`", text
    )
    upper = {
        "SITE": "north",
        "HELPER": "north",
        "PARTY": "north",
        "NNNNNN": "000001",
        "NAME": "run",
    }
    names = {re.sub("|".join(upper), lambda match: upper[match[0]], name) for name in shown}
    files_beside = {"trust.json", "result.json", "run.json"}
    assert {name for name in names if not layout.is_known(name)} == files_beside
    kinds = {place.type for name in names if (place := layout.place(name))}
    assert kinds == {"accept", "helper-key", "upload", "mask-sum"}
    assert names >= layout.NAMED
    assert {layout.aggregate(1), layout.events("north"), layout.checkpoint("north")} <= names  # type: ignore[arg-type]
