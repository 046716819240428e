"""The report as one HTML file: no script, no network, everything inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from tacit.attack.cells import CellResult
from tacit.attack.defences import TITLES, Defence
from tacit.attack.drawings import draw_curves, draw_picture, draw_rocs
from tacit.attack.findings import Curve, Picture, Roc
from tacit.attack.measure import Estimate
from tacit.attack.registry import ROWS
from tacit.attack.report import Report
from tacit.attack.verdict import CellView, bound_of
from tacit.attack.words import LIMITS, MEANING, at_least, at_most, interval, nearest, told, word
from tacit.evidence.page_words import clean
from tacit.evidence.plots import missing
from tacit.evidence.render import template
from tacit.files import write_atomic

__all__ = ["render", "require_page", "write_page"]

TEMPLATE = "page.html.j2"
MAX_PICTURES, MAX_STRIPS = 6, 4
"""Of one attack in one column: pictures of images, and of records of a table."""

LEVELS = {
    "alarm": "fail",
    "broken": "fail",
    "not measured": "caution",
    "leaks": "caution",
    "at chance": "pass",
}
STATUS = {"red": "fail", "open": "caution", "green": "pass"}


@dataclass(frozen=True, slots=True)
class Box:
    """A cell of the table, ready to be shown."""

    level: str
    word: str
    lines: tuple[str, ...]
    title: str


@dataclass(frozen=True, slots=True)
class Pair:
    """An original and what became of it; ``flat`` if they are strips of one row."""

    original: str
    found: str
    caption: str
    flat: bool


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures of one attack, by column."""

    attack: str
    row: str
    columns: tuple[tuple[str, tuple[Pair, ...]], ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure with a table behind it, for those who cannot see it."""

    title: str
    image: str
    alt: str


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything about one attack in one column."""

    attack: str
    column: str
    adversary: str
    failure: str
    notes: tuple[str, ...]
    alarms: tuple[str, ...]
    figures: tuple[tuple[str, ...], ...]


def require_page() -> None:
    """Finds out before hours of work whether the page can be made.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed.
    """
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise missing(package)


def write_page(report: Report, path: Path, *, private: bool = False) -> None:
    """Writes the page, for its owner alone if ``private``; one that is there is replaced.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed.
        TransportError: The disk refuses the write; nothing is left behind.
    """
    write_atomic(path, render(report).encode("utf-8"), private=private)


def render(report: Report) -> str:
    """The page as HTML.

    Guarantee: no text of a job or an attack becomes markup, style, script or an address that a browser would
    load (tests/attack/test_report.py::test_the_page_is_self_contained_and_escapes).
    """
    status, reasons = report.verdict
    words = report.measured()
    return str(
        template("tacit.attack", TEMPLATE).render(
            version=metadata.version("tacit"),
            report=report,
            setting=report.setting,
            job=clean(report.setting.job),
            about=clean(report.setting.about),
            level=STATUS[status],
            headline=report.headline,
            reasons=[clean(reason) for reason in reasons],
            columns=[TITLES[column] for column in report.columns],
            rows=[
                (ROWS[row], [_box(row, report.cells[row, c]) for c in report.columns])
                for row in report.rows
            ],
            meaning=[(LEVELS[verdict], verdict, text) for verdict, text in MEANING.items()],
            proven=[clean(line) for line in report.proven.lines],
            measured=[(ROWS[row], *_parted(report, words[row])) for row in report.rows],
            limits=LIMITS,
            galleries=_galleries(report.results),
            rocs=_rocs(report),
            curves=_curves(report.results),
            details=_details(report.results),
            gates=[(gate.status, clean(gate.message)) for gate in report.gates],
            whole=report.whole,
            only=" ".join(report.rows),
        )
    )


def _parted(report: Report, sentences: Sequence[str]) -> tuple[list[str], list[str]]:
    """The sentences of Tacit's own column, and those of the others."""
    own = [column == "tacit" for column in report.columns]
    told = [clean(text) for text in sentences]
    mine = [text for text, is_own in zip(told, own, strict=True) if is_own]
    return mine, [text for text, is_own in zip(told, own, strict=True) if not is_own]


def _box(row: str, cell: CellView) -> Box:
    estimate = cell.estimate
    lines: list[str] = [*(f"alarm: {name}" for name in cell.alarms)]
    if estimate is not None:
        bound = bound_of(estimate)
        lines += [
            told(estimate),
            "no chance level" if estimate.null is None else f"chance {nearest(estimate.null)}",
            "no bound in theory" if bound is None else f"theory: at most {at_most(bound)}",
            f"{estimate.trials} trial{'' if estimate.trials == 1 else 's'}",
            f"{cell.attack}: {cell.metric}",
        ]
    if cell.reason:
        lines.append(cell.reason)
    level = LEVELS[cell.verdict]
    shown = tuple(clean(line) for line in lines)
    return Box(level, word(row, cell.verdict), shown, estimate.how if estimate else "")


def _galleries(results: Iterable[CellResult]) -> tuple[Gallery, ...]:
    found: dict[tuple[str, str], list[tuple[str, tuple[Pair, ...]]]] = {}
    for result in results:
        if result.findings is None or not result.findings.pictures:
            continue
        pairs = tuple(
            Pair(
                draw_picture(one.original, one.shape),
                draw_picture(one.found, one.shape),
                clean(one.caption),
                one.shape[0] == 1,
            )
            for one in _first(result.findings.pictures)
        )
        found.setdefault((result.row, result.attack), []).append((TITLES[result.defence], pairs))
    return tuple(
        Gallery(clean(attack), ROWS[row], tuple(columns))
        for (row, attack), columns in found.items()
    )


def _first(pictures: Sequence[Picture]) -> Sequence[Picture]:
    flat = all(one.shape[0] == 1 for one in pictures)
    return pictures[: MAX_STRIPS if flat else MAX_PICTURES]


def _rocs(report: Report) -> tuple[Drawing, ...]:
    found: dict[str, list[tuple[Defence, Roc]]] = {}
    for result in report.results:
        for roc in result.findings.rocs if result.findings else ():
            found.setdefault(roc.attack, []).append((result.defence, roc))
    return tuple(
        Drawing(
            clean(attack),
            draw_rocs(rocs, report.proven.ceiling),
            f"ROC curves on logarithmic axes of {', '.join(TITLES[column] for column, _ in rocs)}, with the "
            "line of chance and, where there is one, the bound of differential privacy.",
        )
        for attack, rocs in found.items()
    )


def _curves(results: Iterable[CellResult]) -> tuple[Drawing, ...]:
    found: dict[tuple[str, str, str], list[tuple[Defence, Curve]]] = {}
    for result in results:
        for curve in result.findings.curves if result.findings else ():
            if curve.points:
                key = (result.attack, curve.metric, curve.over)
                found.setdefault(key, []).append((result.defence, curve))
    return tuple(
        Drawing(clean(f"{attack}: {metric} over {over}"), draw_curves(curves), _told(curves))
        for (attack, metric, over), curves in found.items()
    )


def _told(curves: Iterable[tuple[Defence, Curve]]) -> str:
    """The points of curves in words."""
    parts = (
        f"{TITLES[column]}: " + ", ".join(f"{told(of)} at {at:g}" for at, of in curve.points)
        for column, curve in curves
    )
    return "; ".join(parts) + "."


def _details(results: Iterable[CellResult]) -> tuple[tuple[str, tuple[Detail, ...]], ...]:
    found: dict[str, list[Detail]] = {}
    for result in results:
        findings = result.findings
        found.setdefault(ROWS[result.row], []).append(
            Detail(
                attack=clean(result.attack),
                column=TITLES[result.defence],
                adversary=clean(findings.adversary) if findings else "",
                failure=clean(result.reason),
                notes=tuple(clean(note) for note in findings.notes) if findings else (),
                alarms=tuple(clean(alarm) for alarm in findings.alarms) if findings else (),
                figures=tuple(_figure(name, one) for name, one in findings.measured.items())
                if findings
                else (),
            )
        )
    return tuple((row, tuple(details)) for row, details in found.items())


def _figure(name: str, estimate: Estimate) -> tuple[str, ...]:
    bound = bound_of(estimate)
    return (
        clean(name),
        at_least(estimate.value) if estimate.one_sided else nearest(estimate.value),
        interval(estimate),
        "none" if estimate.null is None else nearest(estimate.null),
        "none" if bound is None else at_most(bound),
        str(estimate.trials),
        clean(estimate.how),
    )
