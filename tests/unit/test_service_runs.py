"""Runs of the coordinator's process: submitted, waiting, going on, killed and resumed, cancelled."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tacit.engine.folder import World, party_ports
from tacit.errors import ConfigError, TransportError
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle
from tacit.federation import leader_of
from tacit.lead import RunPlace
from tacit.party.job import JobSpec
from tacit.service.config import LimitsTable
from tacit.service.logs import ServiceLog
from tacit.service.runs import Place, Runs
from tacit.service.state import RunState
from tacit.session import Session
from tacit.testing.carrier import LocalCarrier
from tacit.testing.clock import FixedClock
from tacit.testing.federation import WITHOUT_NOISE, seeded_world, write_small_federation
from tacit.trust.roster import Roster


class Process:
    """A coordinator's process that can be killed: what was in memory is gone."""

    def __init__(
        self,
        base: Path,
        seed: str = "0",
        limits: LimitsTable | None = None,
        job: Path | None = None,
    ) -> None:
        self.base, self.clock, self.stream = base, FixedClock(), io.StringIO()
        world = seeded_world(seed)
        self.world = World(world.entropy, world.sealing, clock=self.clock)
        roster = Roster.load(base / "federation.toml")
        ports = party_ports(base / "coordinator", leader_of(roster), roster, self.world)
        self.carrier = LocalCarrier(base, seeded_world(f"sites {seed}"), self.clock, job or base)
        place = Place(base / "coordinator", base / "federation.toml", roster, ports, self.world)
        log = ServiceLog("coordinator", "debug", self.stream, self.clock)
        self.runs = Runs(place, self.carrier, limits or LimitsTable(), log)
        self.runs.open()
        self.runs.settle()

    def submit(self, *clients: str) -> RunState:
        state = self.runs.submit(self.base / "job.toml", clients)
        self.runs.settle()
        return state

    def finish(self) -> None:
        """Until nothing is left to do."""
        while self.carrier.pump():
            self.runs.settle()

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_small_federation(tmp_path / "f")
    return tmp_path / "f"


def verified(state: RunState) -> str:
    folder = Path(state.folder)
    report = verify_bundle(folder / "bundle.zip", Trust.load(folder / "trust.json"))
    assert report.exit_code == 0, [c for c in report.claims if c.status.value != "PASS"]
    return report.status


def test_a_run_ends_with_a_bundle_that_verifies(base: Path) -> None:
    process = Process(base)
    state = process.submit()
    assert (state.status, state.phase) == ("running", "offered")
    assert state.awaited == ["east", "north", "south", "west"]
    process.finish()
    assert (state.status, state.round, state.rounds) == ("complete", 3, 3)
    assert verified(state) == "complete"
    assert set(state.metrics) >= {"accuracy"}
    assert [number for number, _ in state.history] == [0, 1, 2, 3]
    assert len(state.seconds) == 2
    assert process.carrier.detached == [state.run]
    assert RunState.read(Path(state.folder)) == state
    log = (Path(state.folder) / "log.jsonl").read_text()
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "run.ended"
    result = json.loads((Path(state.folder) / "result.json").read_text())
    assert set(result["spent"]) == {"east", "north", "south", "west"}
    place = RunPlace.read(Path(state.folder))
    assert place.coordinator == (base / "coordinator").resolve()


def test_the_model_is_that_of_the_local_engine(tmp_path: Path) -> None:
    """Without noise and sampling, models depend on the entropy of the masks only: not at all."""
    for name in ("service", "local"):
        write_small_federation(tmp_path / name, job=WITHOUT_NOISE)
    process = Process(tmp_path / "service")
    state = process.submit()
    process.finish()
    base = tmp_path / "local"
    sites = sorted((base / "sites").iterdir())
    session = Session.begin(JobSpec.load(base / "job.toml"), base, sites, world=seeded_world(1))
    outcome = session.execute(clock=FixedClock())
    assert state.metrics == outcome.metrics
    assert state.history == outcome.history


def killed_at(base: Path, steps: int) -> tuple[RunState, Process]:
    process = Process(base)
    state = process.submit()
    process.carrier.pump(steps)
    process.runs.settle()
    return state, process


@pytest.mark.parametrize("steps", [25, 40, 10_000])
def test_runs_survive_the_process(base: Path, steps: int) -> None:
    before, _ = killed_at(base, steps)
    again = Process(base, "again")
    state = again.runs.find(before.run)
    again.finish()
    assert state.status == "complete", again.stream.getvalue()
    assert verified(state) == "complete"
    if steps < 10_000:
        assert "run.resumed" in again.events()


def test_a_process_killed_before_it_said_that_a_run_ended_finds_it_ended(base: Path) -> None:
    state, _ = killed_at(base, 10_000)
    assert state.status == "complete"
    state.status, state.phase, state.ended = "running", "sealing", 0
    state.write()
    again = Process(base, "again")
    assert again.runs.find(state.run).status == "complete"


def test_a_missing_bundle_is_written_after_a_restart(base: Path) -> None:
    state, _ = killed_at(base, 10_000)
    (Path(state.folder) / "bundle.zip").unlink()
    state.status, state.ended = "running", 0
    state.write()
    again = Process(base, "again")
    again.finish()
    assert verified(again.runs.find(state.run)) == "complete"


def test_a_run_that_waited_is_offered_after_a_restart(base: Path) -> None:
    limits = LimitsTable(runs=1)
    process = Process(base, limits=limits)
    first, second = process.submit(), process.submit()
    assert (first.status, second.status) == ("running", "waiting")
    again = Process(base, "again", limits)
    assert again.runs.counts()["waiting"] == 1
    again.runs.cancel(first.run[:12])
    again.finish()
    state = again.runs.find(second.run)
    assert state.status in ("complete", "failed")
    assert state.started


def test_runs_wait_for_their_turn_and_too_many_are_refused(base: Path) -> None:
    process = Process(base, limits=LimitsTable(runs=1, waiting=0))
    first, second = process.submit(), process.submit()
    with pytest.raises(ConfigError) as caught:
        process.submit()
    assert caught.value.code == "submit.full"
    process.finish()
    assert (first.status, second.status) == ("complete", "complete")


def test_a_run_that_a_site_refuses_has_failed_and_has_no_bundle(base: Path) -> None:
    edit("job.toml", '"research"', '"marketing"')(base)
    process = Process(base)
    state = process.submit()
    process.finish()
    assert (state.status, state.round) == ("failed", 0)
    assert state.failure is not None
    assert str(state.failure["code"]).startswith("refused.")
    assert not (Path(state.folder) / "bundle.zip").exists()


def test_a_run_killed_before_all_had_accepted_it_says_that_it_never_began(base: Path) -> None:
    before, _ = killed_at(base, 13)
    again = Process(base, "again")
    again.finish()
    state = again.runs.find(before.run)
    assert state.status == "failed"
    assert state.failure is not None
    assert state.failure["code"] == "run.not-begun"


def test_a_run_is_cancelled_in_order(base: Path) -> None:
    process = Process(base, limits=LimitsTable(runs=1))
    first, second = process.submit(), process.submit()
    process.carrier.pump(60)
    assert first.round >= 2
    for state in (first, second):
        process.runs.cancel(state.run)
    assert second.status == "failed"
    process.finish()
    assert first.status == "partial"
    for state in (first, second):
        assert state.failure is not None
        assert state.failure["code"] == "run.interrupted"
        with pytest.raises(ConfigError, match="is over"):
            process.runs.cancel(state.run)
    folder = Path(first.folder)
    report = verify_bundle(folder / "bundle.zip", Trust.load(folder / "trust.json"))
    assert report.status == "partial"
    # A site may have been asked to end before it had added up an earlier round again.
    unproven = {claim.id for claim in report.claims if claim.status.value != "PASS"}
    assert unproven <= {"model-chain"}


def test_later_edits_do_not_reach_a_run_that_goes_on(base: Path) -> None:
    shutil.copytree(base, base.parent / "kept")  # The sites keep the job's model and schema.
    state, _ = killed_at(base, 25)
    shutil.rmtree(base / "evaluation")
    (base / "job.toml").write_text("rubbish")
    again = Process(base, "again", job=base.parent / "kept")
    again.finish()
    assert again.runs.find(state.run).status == "complete"


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        text = (base / name).read_text()
        assert old in text
        (base / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "clients", "code"),
    [
        (lambda base: (base / "job.toml").unlink(), (), "submit.missing"),
        (edit("job.toml", "logistic", "notebook"), (), "run.notebook"),
        (edit("job.toml", "logistic", "logistics"), (), "learn.model-spec"),
        (edit("job.toml", "logistic", "../m.py:Net"), (), "submit.outside"),
        (edit("job.toml", "logistic", "m.py:Net"), (), "submit.missing"),
        (edit("job.toml", "evaluation/", "../"), (), "submit.outside"),
        (edit("evaluation/contract.toml", "public = true", ""), (), "evaluation.not-public"),
        (edit("job.toml", "min_cohort = 3", "min_cohort = 5"), (), "job.min-cohort"),
        (lambda _: None, ("east", "north"), "job.min-cohort"),
        (lambda _: None, ("east", "north", "nowhere"), "job.roster"),
        (edit("job.toml", "rounds = 3", "rounds = 'x'"), (), "config.value"),
    ],
)
def test_a_job_that_cannot_run_is_refused(
    base: Path, change: Callable[[Path], None], clients: tuple[str, ...], code: str
) -> None:
    process = Process(base)
    change(base)
    with pytest.raises(ConfigError) as caught:
        process.submit(*clients)
    assert caught.value.code == code
    assert process.runs.all() == []
    assert list((base / "coordinator" / "runs").iterdir()) == []


def test_only_the_named_sites_are_asked(base: Path) -> None:
    process = Process(base)
    state = process.submit("west", "east", "north")
    assert state.clients == ["east", "north", "west"]
    process.finish()
    assert state.status == "complete"


def test_a_full_disk_delays_a_run(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(base)
    refused = TransportError("store.io", "no space", remedy="make some")

    def refuse(_: object) -> None:
        raise refused

    with monkeypatch.context() as full:
        state = process.runs.submit(base / "job.toml")
        full.setattr(RunState, "write", refuse)
        process.runs.settle()
    assert "run.delayed" in process.events()
    process.runs.settle()
    process.finish()
    assert state.status in ("complete", "failed")


def test_runs_are_found_by_their_first_digits(base: Path) -> None:
    process = Process(base)
    state = process.submit()
    assert process.runs.find(state.run[:6]) is state
    for name in ("", state.run[:3], "zzzz"):
        with pytest.raises(ConfigError, match="runs begin with"):
            process.runs.find(name)


def test_an_unreadable_state_is_told_and_left_alone(base: Path) -> None:
    folder = base / "coordinator" / "runs" / "abcd"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{")
    process = Process(base)
    assert process.runs.all() == []
    assert "run.unreadable" in process.events()


def test_no_log_line_holds_key_material(base: Path) -> None:
    process = Process(base)
    process.submit()
    process.finish()
    text = process.stream.getvalue()
    keys = [path for path in base.rglob("keys/*") if path.is_file()]
    assert len(keys) >= 5
    for path in keys:
        secret = path.read_bytes()
        for form in (secret.hex(), secret.decode("latin-1").strip()):
            assert form not in text
            assert form[: len(form) // 2] not in text or len(form) < 32
