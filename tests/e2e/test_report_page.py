"""``tacit verify --html``: a page for people from a real run, whatever the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tacit.cli import main
from tacit.evidence.trust import Trust
from tacit.testing.commands import as_json, tacit
from tacit.testing.federation import SITES, write_small_federation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a small run that ended as planned."""
    folder = tmp_path_factory.mktemp("page") / "small"
    write_small_federation(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "--out", "run", "--json"]) == 0
    return folder / "run"


@pytest.fixture
def page(run, tmp_path, capsys):
    """Runs ``tacit verify --html`` and returns the exit code and the page."""

    def verify(*arguments):
        path = tmp_path / "page.html"
        code, out, _ = tacit(capsys, "verify", *arguments, "--html", path)
        assert f"page: {path}" in out.replace("\n", "")
        return code, path.read_text("utf-8")

    return verify


def test_a_verified_run_says_so_and_names_everybody(run, page):
    code, text = page(run / "bundle.zip", "--trust", run / "trust.json")
    record = json.loads((run / "result.json").read_text())
    assert code == 0
    assert "Verified</strong>" in text
    assert record["run"] in text
    for site in SITES:
        assert f'<th scope="row">{site}</th>' in text
    assert text.count("data:image/svg+xml;base64,") == 2  # participation and charges
    assert text.count("accepted the offer: its policy allows the run") == len(SITES)


def test_without_a_trust_file_nobody_is_identified(run, page):
    code, text = page(run / "bundle.zip")
    assert code == 0
    assert "Consistent, but nobody is identified" in text


def test_a_changed_bundle_is_refused_on_the_page_too(run, page, tmp_path):
    data = bytearray((run / "bundle.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.zip").write_bytes(data)
    code, text = page(tmp_path / "changed.zip", "--trust", run / "trust.json")
    assert code == 1
    assert "Refused: do not rely on this run" in text


def test_what_the_trust_file_asks_in_vain_is_not_proven_on_the_page(run, page, tmp_path):
    given = Trust.load(run / "trust.json")
    asked = Trust.of(given.roster, given.required, witnesses={"archive.example": bytes(32)})
    asked.write(tmp_path / "trust.json")
    code, text = page(run / "bundle.zip", "--trust", tmp_path / "trust.json")
    assert code == 2
    assert "Not fully proven" in text
    assert "archive.example" in text


def test_json_stays_json_beside_the_page(run, tmp_path, capsys):
    path = tmp_path / "page.html"
    arguments = (run / "bundle.zip", "--trust", run / "trust.json", "--html", path)
    code, record = as_json(capsys, "verify", *arguments)
    assert (code, record["exit_code"]) == (0, 0)
    assert path.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_a_page_into_nowhere_is_a_typed_error(run, capsys):
    where = Path("no", "such", "folder", "page.html")
    code, _, err = tacit(capsys, "verify", run / "bundle.zip", "--html", where)
    assert code == 64
    assert "cannot write" in err
