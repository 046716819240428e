"""Options that run one seed of one scenario again."""

from __future__ import annotations


def pytest_addoption(parser):
    group = parser.getgroup("simulation")
    group.addoption("--scenario", default=None, help="scenario of the seed to run again")
    group.addoption("--seed", default=None, type=int, help="seed to run again")
