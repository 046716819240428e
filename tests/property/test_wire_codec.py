"""One encoding per message, and no bytes that harm the decoder."""

from dataclasses import dataclass, is_dataclass
from typing import Annotated, get_args, get_origin, get_type_hints

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import DecodeError, LocalProtocolError
from tacit.wire.codec import MAX_NESTING, Size, decode, encode
from tacit.wire.messages import MESSAGES

LIMIT = 2**20


@dataclass(frozen=True, slots=True)
class Inner:
    flag: bool
    note: Annotated[str, Size(0, 8)]


@dataclass(frozen=True, slots=True)
class Sample:
    """Every kind of field."""

    count: Annotated[int, Size(0, 2**32)]
    signed: Annotated[int, Size(-300, 300)]
    plain: int
    key: Annotated[bytes, Size.exactly(4)]
    body: Annotated[bytes, Size(0, 300)]
    text: Annotated[str, Size(1, 30)]
    inner: Inner
    maybe: Inner | None
    limited: Annotated[int, Size(1, 9)] | None
    many: Annotated[tuple[Inner, ...], Size(0, 3)]
    names: Annotated[tuple[Annotated[str, Size(0, 5)], ...], Size(1, 30)]


@dataclass(frozen=True, slots=True)
class Small:
    number: Annotated[int, Size(0, 2**32)]
    key: Annotated[bytes, Size(1, 9)]
    maybe: Inner | None
    many: Annotated[tuple[Inner, ...], Size(0, 3)]


def texts(low, high):
    alphabet = st.characters(exclude_categories=["Cs"])
    return st.text(alphabet, min_size=low, max_size=high)


inners = st.builds(Inner, st.booleans(), texts(0, 8))
samples = st.builds(
    Sample,
    count=st.integers(0, 2**32),
    signed=st.integers(-300, 300),
    plain=st.integers(0, 2**63 - 1),
    key=st.binary(min_size=4, max_size=4),
    body=st.binary(max_size=300),
    text=texts(1, 30),
    inner=inners,
    maybe=st.none() | inners,
    limited=st.none() | st.integers(1, 9),
    many=st.lists(inners, max_size=3).map(tuple),
    names=st.lists(texts(0, 5), min_size=1, max_size=30).map(tuple),
)
SAMPLE = Sample(
    count=2**20,
    signed=-5,
    plain=24,
    key=b"abcd",
    body=bytes(30),
    text="grün",
    inner=Inner(True, "x"),
    maybe=None,
    limited=3,
    many=(Inner(False, ""), Inner(True, "yy")),
    names=("a", "b"),
)


def content(**changes):
    """``SAMPLE`` as plain values, changed."""
    return {**cbor2.loads(encode(SAMPLE)), **changes}


def refused(data, kind=Sample):
    with pytest.raises(DecodeError):
        decode(kind, data, LIMIT)


@given(samples)
def test_round_trip(sample):
    data = encode(sample)
    assert decode(Sample, data, LIMIT) == sample
    assert decode(Sample, data, len(data)) == sample
    with pytest.raises(DecodeError):
        decode(Sample, data, len(data) - 1)


@given(samples)
def test_encoding_is_rfc_8949_deterministic(sample):
    """Keys in bytewise order of their encodings (section 4.2.1); numbers in their shortest form."""
    keys = list(cbor2.loads(encode(sample)))
    assert keys == sorted(keys, key=cbor2.dumps)
    assert encode(sample) == cbor2.dumps(cbor2.loads(encode(sample)), canonical=True)


def test_known_encoding():
    assert encode(Inner(True, "hi")).hex() == "a264666c6167f5646e6f7465626869"


def test_every_single_byte_mutation_is_another_message_or_refused():
    """No two byte strings decode to one message: a mutation never passes for the original."""
    original = Small(300, b"ab", None, (Inner(True, "grün"),))
    data = encode(original)
    survivors = 0
    for position in range(len(data)):
        for value in range(256):
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            if changed == data:
                continue
            try:
                message = decode(Small, changed, LIMIT)
            except DecodeError:
                continue
            survivors += 1
            assert message != original
            assert encode(message) == changed
    assert survivors > 0


def test_every_cut_and_every_trailing_byte_is_refused():
    data = encode(SAMPLE)
    for size in range(len(data)):
        refused(data[:size])
    for value in range(256):
        refused(data + bytes([value]))
    refused(data + data)


def replaced(old, new):
    """The encoding of ``SAMPLE`` with one item spelt differently."""
    data = encode(SAMPLE)
    assert data.count(old) == 1
    return data.replace(old, new)


KEY = {name: cbor2.dumps(name) for name in ("count", "plain", "inner", "maybe", "names", "key")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"\x1a\x00\x10\x00\x00", b"\x1b" + (2**20).to_bytes(8, "big"), id="u64"),
        pytest.param(KEY["plain"] + b"\x18\x18", KEY["plain"] + b"\x19\x00\x18", id="u16"),
        pytest.param(b"glimited\x03", b"glimited\x18\x03", id="u8"),
        pytest.param(KEY["key"] + b"\x44", KEY["key"] + b"\x58\x04", id="length"),
        pytest.param(KEY["names"] + b"\x82", KEY["names"] + b"\x98\x02", id="array-length"),
        pytest.param(KEY["inner"] + b"\xa2", KEY["inner"] + b"\xb8\x02", id="map-length"),
        pytest.param(KEY["count"], b"\x78\x05count", id="key-length"),
        pytest.param(b"\x1a\x00\x10\x00\x00", b"\xc2\x43\x10\x00\x00", id="bignum"),
        pytest.param(b"\x1a\x00\x10\x00\x00", b"\xfa\x49\x80\x00\x00", id="float"),
        pytest.param(b"glimited\x03", b"glimited\xf9\x42\x00", id="half-float"),
        pytest.param(KEY["maybe"] + b"\xf6", KEY["maybe"] + b"\xf7", id="undefined"),
        pytest.param(KEY["maybe"] + b"\xf6", KEY["maybe"] + b"\xf8\x20", id="simple"),
        pytest.param(b"glimited\x03", b"glimited\xd9\xd9\xf7\x03", id="tag"),
        pytest.param(
            KEY["key"] + b"\x44abcd", KEY["key"] + b"\x5f\x44abcd\xff", id="chunked-bytes"
        ),
        pytest.param(b"\x82\x61a\x61b", b"\x9f\x61a\x61b\xff", id="indefinite-array"),
        pytest.param(b"\x61a\x61b", b"\x7f\x61a\xff\x61b", id="indefinite-text"),
        pytest.param(b"\x65gr\xc3\xbcn", b"\x65gr\xff\xbcn", id="not-utf-8"),
        pytest.param(b"\x65gr\xc3\xbcn", b"\x65\xed\xa0\x80gr", id="surrogate"),
        pytest.param(b"\x65gr\xc3\xbcn", b"\x45gr\xc3\xbcn", id="bytes-for-text"),
        pytest.param(b"glimited\x03", b"glimited\xf5", id="true-for-one"),
        pytest.param(b"dflag\xf5dnoteax", b"dflag\x01dnoteax", id="one-for-true"),
    ],
)
def test_other_spellings_are_refused(old, new):
    refused(replaced(old, new))


def test_duplicate_unsorted_and_indefinite_maps_are_refused():
    flag, note = b"\x64flag\xf5", b"\x64note\x62hi"
    assert decode(Inner, b"\xa2" + flag + note, LIMIT) == Inner(True, "hi")
    for data in (
        b"\xa2" + note + flag,
        b"\xa3" + flag + note + note,
        b"\xa3" + flag + b"\x64note\x61x" + note,
        b"\xa2" + flag + flag,
        b"\xbf" + flag + note + b"\xff",
        b"\xa1" + flag,
        b"\xa3" + flag + note + b"\x65other\x00",
        b"\xa2" + flag + b"\x44note\x62hi",
        b"\xa2" + flag + b"\x00\x62hi",
        b"\xd9\xd9\xf7\xa2" + flag + note,
    ):
        refused(data, Inner)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": -1},
        {"count": 2**32 + 1},
        {"count": True},
        {"signed": 301},
        {"plain": 2**63},
        {"plain": -1},
        {"key": b"abc"},
        {"key": b"abcde"},
        {"body": bytes(301)},
        {"text": ""},
        {"text": "x" * 31},
        {"inner": None},
        {"inner": []},
        {"limited": 0},
        {"limited": 10},
        {"many": [{"flag": True, "note": ""}] * 4},
        {"many": {}},
        {"names": []},
        {"names": ["x"] * 31},
        {"names": ["123456"]},
        {"names": [None]},
    ],
)
def test_limits_hold_in_both_directions(changes):
    refused(cbor2.dumps(content(**changes), canonical=True))
    (name, value), *_ = changes.items()
    fields = {field: getattr(SAMPLE, field) for field in Sample.__slots__}
    fields[name] = tuple(value) if isinstance(value, list) else value
    with pytest.raises(LocalProtocolError):
        encode(Sample(**fields))


def test_text_that_is_not_unicode_cannot_be_encoded():
    with pytest.raises(LocalProtocolError):
        encode(Inner(True, "\ud800"))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_only_decode_error(data):
    """Whatever the bytes, for every message of the protocol."""
    for kind in (*MESSAGES.values(), Sample):
        refused(data, kind)


cbor_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | texts(0, 9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(Sample.__slots__) | st.integers(), inner, max_size=6)
        | st.builds(cbor2.CBORTag, st.integers(0, 300), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(cbor_values, st.sampled_from(Sample.__slots__))
def test_only_decode_error_for_well_formed_cbor(value, name):
    """Valid CBOR of any shape, alone and in the place of each field."""
    for plain in (value, content(**{name: value})):
        data = cbor2.dumps(plain, canonical=True)
        try:
            message = decode(Sample, data, LIMIT)
        except DecodeError:
            continue
        assert encode(message) == data


def colliding_keys(count):
    """A map whose keys all have the hash 0 in CPython: inserting them takes quadratic time."""
    prime = 2**61 - 1
    keys = ((2**66 + index) * prime for index in range(count))
    pairs = b"".join(b"\xc2\x50" + key.to_bytes(16, "big") + b"\x00" for key in keys)
    return b"\xba" + count.to_bytes(4, "big") + pairs


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x81" * LIMIT, id="arrays"),
        pytest.param(b"\xa1\x61a" * (LIMIT // 3), id="maps"),
        pytest.param(b"\xc1" * LIMIT, id="tags"),
        pytest.param(b"\x9f" * LIMIT, id="indefinite"),
        pytest.param(b"\x9b" + b"\x7f" * 8, id="huge-array"),
        pytest.param(b"\xbb" + b"\xff" * 8, id="huge-map"),
        pytest.param(b"\x5b" + b"\x7f" * 8, id="huge-bytes"),
        pytest.param(b"\x9a\x00\x0f\xff\xf0" + b"\x80" * 0xFFFF0, id="a-million-items"),
        pytest.param(colliding_keys(40_000), id="colliding-keys"),
        pytest.param(b"\xc2\x5a\x00\x0f\x00\x00" + b"\xff" * 0xF0000, id="huge-bignum"),
        pytest.param(cbor2.dumps(cbor2.CBORTag(35, "(?:a|b)" * 9_000)), id="regular-expression"),
        pytest.param(bytes.fromhex("d81c81d81d00"), id="cyclic"),
        pytest.param(b"\x81" * 5_000 + b"\x00", id="deep"),
        pytest.param(b"\xa1\x81\x00\x00", id="array-as-key"),
        pytest.param(b"\xa2\x61a\x00\x05\x00", id="integer-as-key"),
        pytest.param(b"\xa0" * 2, id="trailing-item"),
    ],
)
def test_bombs_are_refused_by_shape(data, monkeypatch):
    """The parser that builds objects never sees them: its cost could be anything."""
    monkeypatch.setattr(cbor2, "loads", lambda _: pytest.fail("built an object"))
    refused(data)


def depth(kind):
    """Containers inside each other in the encoding of an annotation."""
    if is_dataclass(kind):
        return 1 + max(depth(hint) for hint in get_type_hints(kind).values())
    inner = max((depth(argument) for argument in get_args(kind)), default=0)
    return inner + (get_origin(kind) is tuple)


def test_every_message_stays_inside_the_nesting_limit():
    assert depth(Sample) == 3
    assert max(depth(kind) for kind in MESSAGES.values()) <= MAX_NESTING
