"""Events: their bytes against RFC 8785, and their run against a full reading."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tacit.errors import LocalProtocolError
from tacit.ledger.event import LINKS, MAX_INTEGER, encode_event, run_of
from tacit.types import Milliseconds

text = st.text(st.characters(exclude_categories=["Cs"]))
# Pieces that look like the structure of an event, inside text.
tricky = st.lists(st.sampled_from([',"run":"x"', '{"run":"x"', "\\", '"', "{", "run", "é", "\x1f"]))
texts = st.one_of(text, tricky.map("".join))
names = st.one_of(
    st.text(st.characters(max_codepoint=127), max_size=8),
    st.sampled_from(["run", "runs", 'x"run', ',"run', '{"run', 'run":"x",']),
)
scalars = st.one_of(texts, st.booleans(), st.integers(-MAX_INTEGER, MAX_INTEGER))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)
fields = st.dictionaries(names, values, max_size=6)
runs = st.one_of(st.none(), texts)


def event_of(fields: dict[str, Any], run: str | None) -> dict[str, Any]:
    own = {"seq", "time", "previous", "own", "run"}
    event = {name: value for name, value in fields.items() if name not in own}
    return {**event, "type": "test", **({} if run is None else {"run": run})}


@given(
    fields,
    runs,
    st.integers(0, 2**40),
    st.dictionaries(st.sampled_from(LINKS), st.integers(0, 2**40)),
)
@settings(deadline=None)
def test_events_are_written_as_rfc_8785_says(
    fields: dict[str, Any], run: str | None, index: int, links: dict[str, int]
) -> None:
    event = event_of(fields, run)
    data = encode_event(event, index, Milliseconds(5), links)
    whole = {**event, "seq": index, "time": 5, **links}
    assert data == rfc8785.dumps(whole)
    assert json.loads(data) == whole


@given(fields, runs)
@example({'x"run': "y"}, None)
@example({',"run': "y"}, "z")
@example({"a": ',"run":"y"'}, None)
@example({"a": {"run": "y"}}, None)
@settings(deadline=None, max_examples=300)
def test_the_run_of_an_event_is_found_whatever_its_text_looks_like(
    fields: dict[str, Any], run: str | None
) -> None:
    data = encode_event(event_of(fields, run), 0, Milliseconds(1), {})
    assert run_of(data) == run


@given(st.dictionaries(names, st.one_of(st.floats(), st.none(), st.binary()), min_size=1))
def test_what_rfc_8785_writes_otherwise_or_not_at_all_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_event({"type": "test", **fields}, 0, Milliseconds(1), {})


@given(st.text(min_size=1).filter(lambda name: not name.isascii()))
def test_other_names_are_refused_because_they_sort_otherwise(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_event({"type": "test", name: 1}, 0, Milliseconds(1), {})
