"""``tacit attack``: runs what an adversary would run against a job, and says what that is worth."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from tacit.api import default_sites
from tacit.attack.cells import CellResult, CellStore
from tacit.attack.defences import DEFENCES, TITLES, Defence
from tacit.attack.gate import Gate, check
from tacit.attack.lock import held
from tacit.attack.page import require_page, write_page
from tacit.attack.proven import prove
from tacit.attack.recipe import Recipe, digest_of
from tacit.attack.registry import ROWS, Cell, load_attacks
from tacit.attack.report import Report, Setting, rows_of
from tacit.attack.scratch import DataPool, model_for
from tacit.attack.suite import Suite, Watcher, cells_of, default_jobs, mirrored
from tacit.attack.verdict import CellView, bound_of, is_check, stays_away, view_cell
from tacit.attack.words import LIMITS, at_most, nearest, told, word
from tacit.attack.workbench import Profile, Workbench
from tacit.engine.folder import SiteFolder
from tacit.engine.inside import read_for_attack
from tacit.errors import ConfigError, RoundAborted, TacitError
from tacit.files import read_limited, write_atomic
from tacit.party.job import JobSpec
from tacit.show import console, plain

__all__ = ["Request", "attack_bench", "attack_job", "attack_site", "data_of", "show_report"]

REPORT_LIMIT = 64 * 1024 * 1024
SITES = 4
"""Where the job's federation has no site folders beside it."""

STYLES = {
    "alarm": "bold white on red",
    "broken": "bold red",
    "not measured": "magenta",
    "leaks": "yellow",
    "at chance": "green",
}
STATUS_STYLES = {"red": "bold red", "open": "bold yellow", "green": "bold green"}


@dataclass(frozen=True, slots=True)
class Request:
    """What to attack, and how.

    Args:
        job: The job file.
        profile: How much to do.
        data: Contract of public data; see ``data_of``.
        seed: Of the attacker's choices.
        out: Folder of the results; by default one below ``attacks`` beside the job, the same for the same
            job, code, data, seed, profile and version, so that a second run goes on where the first one
            stopped.
        only: Rows; all by default.
        columns: Columns; all by default.
        jobs: Worker processes; by default one a core, at most four.
        gates: Conditions under which the command fails.
        modules: Where attacks are looked for instead of in Tacit's own packages.
        site: Name of the site whose own data they are; empty for public data.
    """

    job: Path
    profile: Profile = "quick"
    data: Path | None = None
    seed: int = 0
    out: Path | None = None
    only: Sequence[str] = ()
    columns: Sequence[Defence] = ()
    jobs: int | None = None
    gates: Sequence[Gate] = ()
    modules: Sequence[str] = ()
    site: str = ""


def data_of(job: Path, spec: JobSpec, named: Path | None = None) -> Path:
    """The contract of the public data that a job is attacked with.

    Args:
        job: The job file.
        spec: Its content.
        named: What was asked for; otherwise ``attack/contract.toml`` beside the job if there is one, or the
            contract of the job's own evaluation data.
    """
    if named is not None:
        return named
    beside = job.parent / "attack" / "contract.toml"
    return beside if beside.exists() else job.parent / spec.evaluation.contract


def attack_job(request: Request, *, quiet: bool = False) -> tuple[Report, Path]:
    """Runs the suite, or what is left of it, and writes ``report.json`` and ``privacy.html``.

    Args:
        request: What to do.
        quiet: Show no progress.

    Returns:
        The report, and the folder that it is in.

    Raises:
        ConfigError: A file is wrong, or a package that is needed is missing.
        PolicyDenied: The data are not declared public.
        RoundAborted: Stopped by the person at the keyboard; what is done is kept.
    """
    spec = _job(request)
    contract = data_of(request.job, spec, request.data)
    recipe = Recipe(str(request.job), str(contract), request.seed, request.profile)
    return attack_bench(recipe.open(), request, recipe, quiet=quiet)


def attack_bench(
    bench: Workbench, request: Request, recipe: Recipe | None = None, *, quiet: bool = False
) -> tuple[Report, Path]:
    """The same for a workbench that is there already.

    Args:
        bench: What is attacked; ``request`` says the rest.
        request: What to do.
        recipe: How a worker process gets to ``bench``; without one everything runs in this process.
        quiet: Show no progress.

    Raises:
        ConfigError: A package that is needed is missing, the job's settings do not hold together, or the
            folder cannot be made.
        RoundAborted: Stopped by the person at the keyboard; what is done is kept. Or another suite works in
            the folder.
    """
    require_page()
    entries = load_attacks(request.only, request.modules)
    proven = prove(bench, len(default_sites(bench.base)) or SITES)
    digest = digest_of(bench, request.modules).hex()
    if recipe is not None:
        recipe = dataclasses.replace(recipe, modules=tuple(request.modules))
    folder = request.out or request.job.parent / "attacks" / _id(digest, request)
    private = bool(request.site)
    _make(folder, private=private)
    columns = tuple(one for one in DEFENCES if not request.columns or one in request.columns)
    cells = cells_of(entries, columns)
    store = CellStore(folder / "cells", digest, private)
    with held(folder, private=private):
        try:
            with _progress(cells, quiet=quiet) as watcher:
                jobs = request.jobs or default_jobs()
                found = Suite(bench, cells, store, recipe, jobs, watcher).run()
                results = mirrored(found, entries, columns)
        except KeyboardInterrupt:
            raise RoundAborted(
                "attack.interrupted",
                f"the suite was interrupted; what is done is in {folder}",
                retryable=True,
                remedy="run the same command again: it goes on from there",
            ) from None
        report = Report(
            setting=_setting(bench, digest, request.site),
            rows=rows_of(request.only),
            columns=columns,
            results=tuple(sorted(results, key=_order)),
            proven=proven,
            gates=tuple(check(gate, results) for gate in request.gates),
        )
        text = json.dumps(report.record(), indent=2, allow_nan=False) + "\n"
        record, page = _names(report, folder)
        write_atomic(record, text.encode(), private=private)
        write_page(report, page, private=private)
    return report, folder


def _id(digest: str, request: Request) -> str:
    return f"{digest[:12]}-{request.profile}-{request.seed}"


def attack_site(site: Path, request: Request, *, quiet: bool = False) -> tuple[Report, Path]:
    """The suite on a site's own records, inside the site; see ``engine.inside.read_for_attack``.

    Everything runs in this process, and everything that comes out stays in the site's folder: results show
    records. Nothing of it enters the evidence of a run.

    Args:
        site: The site's folder.
        request: What to do; ``data`` does not apply, the job names the data set.
        quiet: Show no progress.

    Raises:
        PolicyDenied: The site's policy has no permit that names the action ``attack``, or a forbid matches.
        ConfigError: A file is wrong, data were named, or the results would lie outside the site's folder.
        RoundAborted: Stopped by the person at the keyboard; what is done is kept.
    """
    spec = _job(request)
    if request.data is not None:
        raise ConfigError(
            "attack.data",
            "a site attacks the data set that the job names, under its own policy",
            remedy="leave --data out",
            key="data",
        )
    require_page()
    load_attacks(request.only, request.modules)
    home = site.resolve()
    place = request.out or home / "attacks"
    if home == place.resolve() or not place.resolve().is_relative_to(home):
        raise ConfigError(
            "attack.outside",
            f"{place} is not a folder inside {site}: what attacks find on a site's records stays there",
            remedy=f"leave --out out, or name a folder below {site}",
            file=str(place),
        )
    _make(place, private=True)
    load = partial(model_for, spec, request.job.parent)
    contract, batch = read_for_attack(site, spec, load)
    data = DataPool(contract, batch)
    bench = Workbench(spec, request.job.parent, data, request.seed, request.profile)
    folder = request.out or place / _id(digest_of(bench, request.modules).hex(), request)
    inside = dataclasses.replace(request, out=folder, site=SiteFolder.load(site).name)
    return attack_bench(bench, inside, quiet=quiet)


def _make(folder: Path, *, private: bool) -> None:
    """Makes a folder for results; one of a site's own for its owner alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if private:
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            "attack.folder",
            f"cannot make {folder}: {error.strerror}",
            remedy="name another folder with --out",
            file=str(folder),
        ) from error


def _names(report: Report, folder: Path) -> tuple[Path, Path]:
    """Where record and page go: a part of the suite leaves a whole report alone."""
    record, page = folder / "report.json", folder / "privacy.html"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, TacitError):
        if not report.whole and json.loads(read_limited(record, REPORT_LIMIT))["whole"]:
            return folder / "part.json", folder / "part.html"
    return record, page


def _job(request: Request) -> JobSpec:
    if not request.job.exists():
        raise ConfigError(
            "job.missing",
            f"there is no job file {str(request.job)!r} here",
            remedy="change to the folder of a federation, name the job file, or run 'tacit init'",
            file=str(request.job),
        )
    return JobSpec.load(request.job)


def _setting(bench: Workbench, digest: str, site: str) -> Setting:
    return Setting(
        job=bench.job.name,
        job_digest=bench.job.digest.hex(),
        code=bench.model.code.hex(),
        data=bench.data.contract.name,
        records=len(bench.data),
        seed=bench.seed,
        profile=bench.profile,
        digest=digest,
        site=site,
    )


def _order(result: CellResult) -> tuple[int, str, int]:
    return list(ROWS).index(result.row), result.attack, DEFENCES.index(result.defence)


# --- progress --------------------------------------------------------------------------------------


@contextmanager
def _progress(cells: Sequence[Cell], *, quiet: bool) -> Iterator[Watcher]:
    """A bar over all cells and one for each that is being worked on; a line a cell without a terminal."""
    out = console(error=True)
    if quiet:
        yield Watcher()
    elif not out.is_terminal:
        yield Watcher(done=_plain_lines(len(cells)))
    else:
        columns = (TextColumn("{task.description:44}"), BarColumn(), TimeElapsedColumn())
        with Bar(*columns, console=out, transient=True) as bar:
            yield _bars(bar, cells)


def _plain_lines(total: int) -> Callable[[Cell, CellResult, bool], None]:
    count = 0

    def done(cell: Cell, result: CellResult, kept: bool) -> None:
        nonlocal count
        count += 1
        how = "kept from before" if kept else f"{result.seconds:.1f} s"
        text = f"{count}/{total} {cell.entry.attack.name}, {TITLES[cell.defence]}: {_came_to(result)} ({how})"
        print(plain(text), file=sys.stderr, flush=True)

    return done


def _came_to(result: CellResult) -> str:
    if result.reason:
        return f"{'left out' if stays_away(result) else 'not measured'}: {result.reason}"
    cell = view_cell([result])
    if is_check(result) and cell.verdict != "alarm":
        return "no alarm"
    return word(result.row, cell.verdict)


def _bars(bar: Bar, cells: Sequence[Cell]) -> Watcher:
    whole = bar.add_task(f"{len(cells)} attacks", total=sum(cell.cost for cell in cells) or 1.0)
    tasks = {
        cell.name: bar.add_task(
            plain(f"{cell.entry.attack.name}, {TITLES[cell.defence]}").plain,
            total=1.0,
            start=False,
            visible=False,
        )
        for cell in cells
    }
    shares = dict.fromkeys(tasks, 0.0)

    def update(cell: Cell, share: float) -> None:
        task, shares[cell.name] = tasks[cell.name], share
        bar.start_task(task)
        bar.update(task, completed=share, visible=share < 1)
        bar.update(whole, completed=sum(one.cost * shares[one.name] for one in cells))

    return Watcher(progress=update, done=lambda cell, _result, _kept: update(cell, 1.0))


# --- what is shown ---------------------------------------------------------------------------------


def show_report(report: Report, folder: Path) -> None:
    """The table, what it means, and where the rest is."""
    out = console()
    setting, (status, reasons) = report.setting, report.verdict
    out.print(_table(report))
    out.print(
        plain(
            "Each cell: verdict; value and 95% interval; chance, and what theory allows; trials and strongest attack.",
            "dim",
        )
    )
    out.print()
    out.print(plain(report.headline, STATUS_STYLES[status]))
    for reason in reasons:
        out.print(plain(f"- {reason}", STATUS_STYLES[status]))
    _paragraph("Proven", report.proven.lines)
    column: Defence = "tacit" if "tacit" in report.columns else report.columns[-1]
    at = report.columns.index(column)
    _paragraph(
        "Measured", [f"{ROWS[row]}, {texts[at]}" for row, texts in report.measured().items()]
    )
    _paragraph("Not covered", LIMITS)
    for gate in report.gates:
        style = {"bites": "bold red", "not measured": "bold yellow", "passes": "green"}[gate.status]
        out.print(plain(f"gate {gate.status}: {gate.message}", style))
    out.print(plain(setting.about))
    record, page = _names(report, folder)
    out.print(plain(f"page: {page}"))
    out.print(plain(f"record: {record}"))


def _paragraph(title: str, lines: Sequence[str]) -> None:
    out = console()
    out.print()
    out.print(plain(title, "bold"))
    for line in lines:
        out.print(plain(f"- {line}"), soft_wrap=False)


def _table(report: Report) -> Table:
    made = Table(
        title=plain(f"What attacks on job '{report.setting.job}' achieve"),
        title_justify="left",
        header_style="bold",
        pad_edge=False,
        show_lines=True,
        padding=(0, 1),
    )
    made.add_column("attack on", overflow="fold", min_width=12)
    for column in report.columns:
        made.add_column(plain(TITLES[column]), overflow="fold", min_width=17)
    for row in report.rows:
        shown = (_shown(row, report.cells[row, column]) for column in report.columns)
        made.add_row(plain(ROWS[row]), *shown)
    return made


def _shown(row: str, cell: CellView) -> Text:
    """A cell in a few short lines."""
    name = word(row, cell.verdict)
    head = plain(name.upper() if cell.verdict == "alarm" else name, STYLES[cell.verdict])
    estimate = cell.estimate
    if estimate is None:
        return head if cell.attacks else plain("not measured", "dim")
    bound = bound_of(estimate)
    lines = [
        plain(told(estimate)),
        plain("no chance level" if estimate.null is None else f"chance {nearest(estimate.null)}"),
        *([] if bound is None else [plain(f"theory <= {at_most(bound)}")]),
        plain(f"n {estimate.trials}, {cell.attack}", "dim"),
    ]
    return Text("\n").join([head, *lines])
