"""The demonstration's data: real records, each once, and a federation on disk that is ready to run."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tacit import connect
from tacit.config import load_toml
from tacit.demo import hospitals
from tacit.errors import ConfigError
from tacit.party.config import SiteConfig
from tacit.party.job import JobSpec
from tacit.policy.cedar import UNBOUNDED_EPSILON, Policy, Request
from tacit.policy.contract import Contract
from tacit.testing.entropy import SeededEntropy
from tacit.testing.permissions import FixedKeys, permission
from tacit.testing.policies import REQUEST
from tacit.trust.identity import Identity
from tacit.trust.roster import Roster

NAMES = [place.name for place in hospitals.HOSPITALS]


@pytest.fixture(scope="module")
def split() -> hospitals.Split:
    return hospitals.split(0)


@pytest.fixture(scope="module")
def federation(split: hospitals.Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "federation"
    hospitals.write_federation(folder, split, entropy=SeededEntropy(1))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Everything but the locks, which say when they were made."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "policy.lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def request(**changes: object) -> Request:
    regions = frozenset({"eu", "uk"})
    ours = replace(REQUEST, dataset="diagnosis", helper_regions=regions, min_cohort=4)
    return replace(ours, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1, 100])
def test_every_record_is_held_once(seed: int) -> None:
    made = hospitals.split(seed)
    rows = [*made.evaluation.rows.tolist(), *made.pooled().rows.tolist()]
    assert sorted(rows) == list(range(569))
    everything = hospitals.load_records()
    for part in (*made.train.values(), made.evaluation):
        assert np.array_equal(part.features, everything.features[part.rows])
        assert np.array_equal(part.labels, everything.labels[part.rows])


def test_hospitals_are_uneven_and_skewed_and_the_test_set_is_not(split: hospitals.Split) -> None:
    sizes = [len(split.train[name]) for name in NAMES]
    malignant = [float(split.train[name].labels.mean()) for name in NAMES]
    assert max(sizes) > 2 * min(sizes)
    assert max(malignant) > 4 * min(malignant)
    assert min(malignant) > 0
    overall = hospitals.load_records().labels.mean()
    assert abs(split.evaluation.labels.mean() - overall) < 0.01


def test_a_split_follows_from_its_seed() -> None:
    first, again, other = hospitals.split(3), hospitals.split(3), hospitals.split(4)
    for name in NAMES:
        assert np.array_equal(first.train[name].rows, again.train[name].rows)
    assert not np.array_equal(first.evaluation.rows, other.evaluation.rows)


def test_features_are_scikit_learns_and_every_value_is_strictly_within_its_range() -> None:
    published = hospitals.bundled("load_breast_cancer").feature_names
    ranges = hospitals.features()
    assert [item.name for item in ranges] == [name.replace(" ", "_") for name in published]
    values = hospitals.load_records().features
    for item, column in zip(ranges, values.T, strict=True):
        assert item.lower == 0 == column.min() or item.lower < column.min(), item.name
        assert item.upper > column.max(), item.name
        assert item.source
        assert item.unit


def test_equal_seeds_write_equal_federations(
    federation: Path, split: hospitals.Split, tmp_path: Path
) -> None:
    hospitals.write_federation(tmp_path / "again", split, entropy=SeededEntropy(1))
    assert files(tmp_path / "again") == files(federation)
    hospitals.write_federation(tmp_path / "fresh", split)
    keys = "sites/north/keys/identity.key"
    assert files(tmp_path / "fresh")[keys] != files(federation)[keys]


def test_an_existing_folder_is_left_alone(federation: Path, split: hospitals.Split) -> None:
    before = files(federation)
    with pytest.raises(ConfigError, match="exists already"):
        hospitals.write_federation(federation, split)
    assert files(federation) == before


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_delivers_the_measurements_and_no_identity(
    federation: Path, split: hospitals.Split, name: str
) -> None:
    site = federation / "sites" / name
    contract = Contract.load(site / "contracts" / "diagnosis.toml")
    kept = [column for column in contract.columns if column.method == "keep"]
    assert {column.classification for column in kept} == {"feature", "label"}
    synthetic = {column.name for column in contract.columns if column.synthetic}
    assert synthetic == set(hospitals.IDENTITY)
    assert not synthetic & {column.name for column in kept}
    batch = connect.read(contract, site, permission(contract), FixedKeys())
    assert np.array_equal(batch.features, split.train[name].features)
    assert np.array_equal(batch.labels, split.train[name].labels)
    assert {column.name for column in batch.receipt.removed()} == synthetic


def test_sites_share_one_schema_and_the_evaluation_set_is_public(
    federation: Path, split: hospitals.Split
) -> None:
    public = Contract.load(federation / "evaluation" / "contract.toml")
    assert public.public
    for name in NAMES:
        path = federation / "sites" / name / "contracts" / "diagnosis.toml"
        assert Contract.load(path).schema() == public.schema()
    batch = connect.read(public, federation / "evaluation", permission(public))
    assert np.array_equal(batch.features, split.evaluation.features)


def test_identities_are_invented_and_belong_to_the_record(federation: Path) -> None:
    with (federation / "sites/north/data/patients.csv").open(encoding="utf-8") as file:
        north = list(csv.DictReader(file))
    south = pq.read_table(federation / "sites/south/data/patients.parquet").to_pylist()
    ids = Counter(str(row["national_id"]) for row in [*north, *south])
    assert max(ids.values()) == 1
    assert all(name.startswith("SYN-") for name in ids)
    for row in [*north, *south]:
        assert row["phone"].startswith("+44 7700 900")
        assert row["name"] in row["note"]


def test_keys_match_the_roster_that_everyone_signed(federation: Path) -> None:
    roster = Roster.load(federation / "federation.toml")
    assert sorted(member.name for member in roster.members) == sorted(["coordinator", *NAMES])
    assert [member.name for member in roster.with_role("leader")] == ["coordinator"]
    assert len(roster.with_role("helper")) == 4
    assert len(roster.operators(member.name for member in roster.members)) == 5
    for member in roster.members:
        place = member.name if member.name == "coordinator" else f"sites/{member.name}"
        identity = Identity.load(federation / place / "keys" / "identity.key")
        assert identity.public_key == member.key
        if member.name != "coordinator":
            site = load_toml(federation / place / "site.toml", SiteConfig)
            assert (site.name, site.operator, site.region) == (
                member.name,
                member.operator,
                member.region,
            )


def test_the_job_states_the_promised_privacy(
    federation: Path, split: hospitals.Split, tmp_path: Path
) -> None:
    job = JobSpec.load(federation / "job.toml")
    assert (job.privacy.unit, job.privacy.epsilon, job.privacy.delta) == ("record", 0.9, 1e-5)
    assert (job.privacy.max_colluding, job.privacy.noise) == (1, "shared")
    assert job.privacy.expected_units == len(split.pooled())
    own = JobSpec.load(hospitals.write_federation(tmp_path / "own", split, variant="own"))
    assert own.privacy.noise == "own"
    plain = JobSpec.load(hospitals.write_federation(tmp_path / "plain", split, variant="plain"))
    assert (plain.privacy.unit, plain.aggregation.protocol) == ("none", "plain")
    assert max(map(len, split.train.values())) <= plain.privacy.expected_units


def test_policies_permit_their_own_job_only(
    federation: Path, split: hospitals.Split, tmp_path: Path
) -> None:
    hospitals.write_federation(tmp_path / "own", split, variant="own")
    hospitals.write_federation(tmp_path / "plain", split, variant="plain")
    shared, own, plain = (
        Policy.load(folder / "sites" / "west" / "policies")
        for folder in (federation, tmp_path / "own", tmp_path / "plain")
    )
    baseline = request(
        unit="none",
        epsilon_milli=UNBOUNDED_EPSILON,
        aggregation="plain",
        helpers=0,
        max_colluding=0,
        own_helper=False,
    )
    full_noise = request(own_noise=True, max_colluding=3)
    assert [policy.decide(request()).allowed for policy in (shared, own, plain)] == [1, 0, 0]
    assert [policy.decide(full_noise).allowed for policy in (shared, own, plain)] == [1, 1, 0]
    assert [policy.decide(baseline).allowed for policy in (shared, own, plain)] == [0, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "marketing"},
        {"epsilon_milli": 1001},
        {"unit": "none"},
        {"own_helper": False},
        {"helper_regions": frozenset({"eu", "us"})},
        {"min_cohort": 3},
        {"code": "not pinned"},
        {"dataset": "billing"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hospitals_refuse_what_their_policy_does_not_name(
    federation: Path, change: dict[str, object]
) -> None:
    policy = Policy.load(federation / "sites" / "north" / "policies")
    assert not policy.decide(request(**change)).allowed
