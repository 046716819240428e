"""The second demonstration: eight clients, handwritten digits, a small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tacit.demo import digits
from tacit.demo.attack_part import alarms, show_attacks, write_pictures
from tacit.demo.baselines import pool, pooled_network
from tacit.demo.evidence_part import show_verification
from tacit.demo.federated import Holding, Trained, holdings, prepare, train
from tacit.demo.results import command, machine, write_results
from tacit.demo.scoreboard import Row, coalitions, scoreboard
from tacit.demo.screen import Screen, steps
from tacit.errors import ConfigError
from tacit.show import table
from tacit.trust.identity import OsEntropy

__all__ = ["require_torch", "run_digits"]

SPLIT = 0
CONTRACT = "digits"


def require_torch() -> None:
    """Checks that the network can be trained at all, before anything is written.

    Raises:
        ConfigError: PyTorch is not installed.
    """
    try:
        import_module("tacit.learn.torch_model")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "demo.torch",
            "the digits are read by a small network of PyTorch, which is not installed",
            remedy="run: pip install 'tacit[torch]', or try: tacit demo --data hospitals",
        ) from error


def run_digits(
    folder: Path, screen: Screen, *, rounds: int | None = None, attacks: Sequence[str] = ()
) -> tuple[dict[str, Any], bool]:
    """Runs and shows everything, and writes the results.

    Args:
        folder: Of the results; exists.
        screen: Where to show it.
        rounds: Other than the job says, for a short demonstration.
        attacks: Rows of the table of attacks; all of them by default.

    Returns:
        All figures, and whether the bundle verified and no attack raised an alarm.
    """
    _introduce(folder, screen)
    federation = folder / f"split-{SPLIT}"
    job = digits.write_federation(federation, digits.split(SPLIT))
    held = holdings(federation, CONTRACT)
    _show_holdings(held, screen)
    rows, trained = _train(job, held, rounds, screen)
    outcome = trained.outcome

    screen.heading("How good the model is, and what it cost")
    screen.show(scoreboard(rows))
    screen.say(
        "One split; metrics on public images that no client holds; AUC is the mean of each digit "
        "against the rest. MB: what a client sends and receives; records: the images themselves."
    )
    screen.heading(f"What epsilon {outcome.epsilon:.1f} means: who would have to collude")
    screen.show(coalitions([("Tacit", outcome.coalitions)]))
    screen.say(
        f"Epsilon {outcome.epsilon:.1f} at delta {outcome.delta:g} holds against outsiders, the leader "
        "and any one other client."
    )
    screen.heading("Evidence: a stranger can check the run offline")
    report = show_verification(outcome.folder, screen)
    found, attacked = show_attacks(job, folder / "attacks", screen, attacks)
    picture = write_pictures(found, folder / "reconstruction.png") if found else None
    record = {
        "data": "digits",
        "machine": machine(),
        "splits": [SPLIT],
        "clients": [{"client": h.site, "records": len(h.batch)} for h in held],
        "delta": outcome.delta,
        "rows": [row.record() for row in rows],
        "epsilon_by_coalition": {"Tacit": list(outcome.coalitions)},
        "verification": report.to_record(),
        "attacks": attacked,
        "bundle": str(outcome.bundle),
    }
    results = write_results(folder, record)
    screen.heading("Where it is, and what to try next")
    screen.line(f"figures   {results}")
    screen.line(f"evidence  {outcome.bundle}")
    screen.line(f"attacks   {folder / 'attacks' / 'privacy.html' if found else 'none'}")
    screen.line(f"picture   {picture or 'none'}")
    screen.line("")
    trust = outcome.folder / "trust.json"
    screen.line(f"{command()} verify {outcome.bundle} --trust {trust}")
    return record, report.exit_code == 0 and not alarms(attacked)


def _introduce(folder: Path, screen: Screen) -> None:
    screen.heading(
        "Tacit: eight clients train one network; no image and no update is shown to anyone"
    )
    screen.facts(
        [
            (
                "real, public",
                "1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn; each client "
                "writes some digits more often than others",
            ),
            (
                "scratch",
                f"a fresh federation under {folder}/ with its own keys and budgets: repeating an "
                "experiment is honest on public data only",
            ),
        ]
    )


def _show_holdings(held: Sequence[Holding], screen: Screen) -> None:
    screen.heading("How many images of which digit each client holds")
    rows = []
    for holding in held:
        counts = [int((holding.batch.labels == digit).sum()) for digit in digits.CLASSES]
        rows.append((holding.site, str(len(holding.batch)), *map(str, counts)))
    screen.show(table("", ("client", "images", *map(str, digits.CLASSES)), rows))


def _train(
    job: Path, held: Sequence[Holding], rounds: int | None, screen: Screen
) -> tuple[list[Row], Trained]:
    with steps("training", 2, quiet=screen.quiet) as progress:
        progress.update(0, 0.0, "pooled records")
        prepared = prepare(job, rounds=rounds)
        session = prepared.session
        workload = session.coordinator.chain.workload
        data = pool([workload.prepare(holding.batch) for holding in held])
        pooled = pooled_network(workload, data, session.lead.evaluation, OsEntropy().draw(32))
        progress.update(0, 1.0, "pooled records")
        trained = train(prepared, lambda share: progress.update(1, share, "Tacit"))
    rows = [
        Row("pooled", "pooled records", (pooled,)),
        Row("shared", "Tacit", (trained.score,)),
    ]
    return rows, trained
