"""Options that run one seed of one scenario again, and the federations to which named lies are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.testing.lies import NORTH, set_limits
from tacit.wire.envelope import Envelope
from tacit.wire.messages import MaskRequest, MaskSum, RoundStart, Upload


def pytest_addoption(parser):
    group = parser.getgroup("simulation")
    group.addoption("--scenario", default=None, help="scenario of the seed to run again")
    group.addoption("--seed", default=None, type=int, help="seed to run again")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("malicious") / "small"
    write_small_federation(path)
    return path


@pytest.fixture
def small(folder: Path) -> SmallFederation:
    """A federation of one's own, for behaviours that change something."""
    return SmallFederation(folder)


def at_site(folder: Path, number: int) -> Iterator[tuple[SmallFederation, Envelope]]:
    """North's site before a round; after all lies it still takes part in it."""
    small = SmallFederation(folder)
    set_limits(small, resum="never")
    start = small.until(RoundStart, number)[NORTH]
    yield small, start
    (made,) = small.sites[NORTH].receive(start, small.clock())
    assert isinstance(small.read(made).body, Upload)


@pytest.fixture(scope="module")
def site_one(folder: Path) -> Iterator[tuple[SmallFederation, Envelope]]:
    yield from at_site(folder, 1)


@pytest.fixture(scope="module")
def site_three(folder: Path) -> Iterator[tuple[SmallFederation, Envelope]]:
    yield from at_site(folder, 3)


@pytest.fixture(scope="module")
def helper_one(folder: Path) -> Iterator[tuple[SmallFederation, Envelope]]:
    """North's helper before its answer of round 1; after all lies it still gives it."""
    small = SmallFederation(folder)
    request = small.until(MaskRequest)[NORTH]
    yield small, request
    answer, _ = small.helpers[NORTH].receive(request, small.clock())
    assert isinstance(small.read(answer).body, MaskSum)
