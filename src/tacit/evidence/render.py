"""The verifier's result as one HTML file: no script, no network, everything inside."""

from __future__ import annotations

from importlib import import_module, metadata, resources
from pathlib import Path
from typing import Any

from tacit.errors import DecodeError
from tacit.evidence import plots
from tacit.evidence.archive import ARCHIVE_LIMIT, unpack
from tacit.evidence.page import Page, make_page
from tacit.evidence.page_figures import Charges, Participation
from tacit.evidence.report import Report
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle
from tacit.evidence.view import View
from tacit.files import read_limited, write_atomic

__all__ = ["render", "template", "write_page"]

TEMPLATE = "page.html.j2"
STYLE = "page.css"


def write_page(bundle: Path, trust: Trust | None, path: Path) -> Report:
    """Verifies a bundle and writes the result as a page, whatever the result is.

    Args:
        bundle: The bundle.
        trust: Whom the auditor trusts; without it authenticity is NOT PROVEN.
        path: The HTML file to write; one that is there is replaced.

    Raises:
        ConfigError: The bundle cannot be read, or jinja2 or matplotlib is not installed.
        TransportError: The disk refuses the write; nothing is left behind.
    """
    data = read_limited(bundle, ARCHIVE_LIMIT)
    report = verify_bundle(data, trust)
    try:
        view = View(unpack(data))
    except DecodeError:
        view = None
    write_atomic(path, render(make_page(view, report, trust)).encode("utf-8"))
    return report


def render(page: Page) -> str:
    """The page as HTML.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed.

    Guarantee: Against whoever writes texts of a bundle: no text becomes markup, style, script or an
    address that a browser would load
    (tests/unit/test_evidence_page.py::test_hostile_names_never_become_markup).
    """
    charges, participation = page.charges, page.participation
    return str(
        template("tacit.evidence", TEMPLATE).render(
            page=page,
            version=metadata.version("tacit"),
            charges_image=plots.draw_charges(charges) if isinstance(charges, Charges) else "",
            participation_image=plots.draw_participation(participation)
            if isinstance(participation, Participation)
            else "",
        )
    )


def template(package: str, name: str) -> Any:
    """A template of a page; every text that goes in is escaped, and an unknown name is an error.

    Args:
        package: Package that holds it.
        name: Its file. What it calls ``style`` is the style sheet that all pages share.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    try:
        jinja2 = import_module("jinja2")
        markup = import_module("markupsafe").Markup
    except ImportError as error:
        raise plots.missing("jinja2") from error
    source = resources.files(package).joinpath(name).read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    style = resources.files("tacit.evidence").joinpath(STYLE).read_text("utf-8")
    environment.globals["style"] = markup(style)
    return environment.from_string(source)
