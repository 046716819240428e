"""Files that people write: strict types, nearest keys, and no error but ConfigError."""

from __future__ import annotations

import pytest

from tacit.config import load_toml
from tacit.errors import ConfigError
from tacit.files import make_folder, read_limited
from tacit.party.config import SiteConfig
from tacit.party.job import JobSpec

SITE = """
version = 1
name = "north"
operator = "north-hospital"
region = "eu"
[policy]
approvals = 1
approvers = { operator = "%s" }
[budget]
epsilon = 2
delta = 1e-5
""" % ("00" * 32)


def load(tmp_path, text, table=SiteConfig):
    path = tmp_path / "file.toml"
    path.write_text(text)
    return load_toml(path, table)


def test_a_good_file_loads(tmp_path):
    assert load(tmp_path, SITE).budget.epsilon == 2.0


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('allow_without_dp = "yes"', "budget.allow_without_dp"),
        ("[limits]\nrequire_own_helper = 'off'", "limits.require_own_helper"),
        ("[limits]\nmax_uncompleted_rounds = true", "limits.max_uncompleted_rounds"),
        ("[limits]\nmax_uncompleted_rounds = '3'", "limits.max_uncompleted_rounds"),
    ],
)
def test_nothing_is_taken_for_another_type(tmp_path, line, key):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, SITE + line)
    assert error.value.details["key"] == key
    assert error.value.remedy


def test_a_misspelt_key_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, SITE.replace("operator", "operater"))
    assert error.value.code == "config.unknown-key"
    assert "'operator'" in error.value.remedy


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "9" * 5000, "x = \x00", "= 1"])
def test_no_text_does_more_than_fail(tmp_path, text):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert "file.toml" in error.value.message


@pytest.mark.parametrize("function", [lambda path: read_limited(path, 10), make_folder])
@pytest.mark.parametrize("name", ["a\x00b", "x" * 300 + "/y"])
def test_impossible_paths_are_config_errors(tmp_path, function, name):
    with pytest.raises(ConfigError):
        function(tmp_path / name)


def test_own_noise_needs_a_unit(tmp_path):
    text = """
version = 1
name = "job"
purpose = "research"
rounds = 1
model = "logistic"
data = { contract = "c" }
evaluation = { contract = "e.toml" }
privacy = { unit = "none", expected_units = 10, noise = "own" }
aggregation = { min_cohort = 2 }
"""
    with pytest.raises(ConfigError, match="adds no noise"):
        load(tmp_path, text, JobSpec)
