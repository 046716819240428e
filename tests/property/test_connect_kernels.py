"""Tokens, FF1, moved dates and the residual scan on cells of any content, however Arrow holds them."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.connect.dates import shift_dates
from tacit.connect.ff1 import decrypt, encrypt
from tacit.connect.patterns import DETECTORS
from tacit.connect.residual import CANARY, Hit, scan
from tacit.connect.tokens import pseudonyms, tokens

keys = st.binary(min_size=32, max_size=32)
texts = st.one_of(
    st.text(max_size=20),
    st.text("ab\0", max_size=17),
    st.text("ab", min_size=14, max_size=18),
    st.sampled_from(["", "\0", "ü" * 7, "ü" * 8, "x" * 15, "x" * 16]),
)
columns = st.lists(st.one_of(st.none(), texts), max_size=30)


def layouts(cells: list[str | None]) -> list[pa.Array]:
    """The same cells in every form in which Arrow holds text, the first plain."""
    wide = pa.array(["some-longer-cell-before", None, *cells, "after", None], pa.string())
    return [
        pa.array(cells, pa.string()),
        wide[2 : 2 + len(cells)],
        pa.array(cells, pa.large_string()),
        pa.array(cells, pa.string()).dictionary_encode(),
        wide.dictionary_encode()[2 : 2 + len(cells)],
    ]


@given(columns, keys)
def test_tokens_are_equal_exactly_where_cells_are(cells: list[str | None], key: bytes) -> None:
    made = [tokens(form, key) for form in layouts(cells)]
    for other in made[1:]:
        assert other == made[0]
    named = made[0].to_pylist()
    assert [token is None for token in named] == [cell is None for cell in cells]
    assert len(set(named)) == len(set(cells))
    assert len(set(zip(cells, named, strict=True))) == len(set(cells))


@given(st.lists(texts, max_size=30), keys)
def test_pseudonyms_are_equal_exactly_where_cells_are(cells: list[str], key: bytes) -> None:
    made = [pseudonyms(form, key).tolist() for form in layouts(list(cells))]
    assert all(other == made[0] for other in made)
    assert len(set(zip(cells, made[0], strict=True))) == len(set(cells)) == len(set(made[0]))


@given(st.data(), keys, st.binary(max_size=40))
def test_ff1_is_a_permutation_that_decrypt_inverts(
    data: st.DataObject, key: bytes, tweak: bytes
) -> None:
    alphabet = data.draw(st.sampled_from(["0123456789", "abcdef", "äö€xyz.", "01"]))
    shortest = {10: 6, 6: 8, 7: 8, 2: 20}[len(alphabet)]
    cell = st.text(alphabet, min_size=shortest, max_size=shortest + 60)
    cells = data.draw(st.lists(st.one_of(st.none(), cell), max_size=20))
    made = [
        encrypt(form, key, alphabet, tweak).cast(pa.string())
        for form in layouts_of(cells, alphabet)
    ]
    for other in made[1:]:
        assert other == made[0]
    hidden = made[0].to_pylist()
    assert [text if text is None else len(text) for text in hidden] == [
        text if text is None else len(text) for text in cells
    ]
    assert all(set(text or "") <= set(alphabet) for text in hidden)
    assert decrypt(made[0], key, alphabet, tweak).to_pylist() == cells
    assert encrypt(decrypt(made[0], key, alphabet, tweak), key, alphabet, tweak) == made[0]


def layouts_of(cells: list[str | None], alphabet: str) -> list[pa.Array]:
    """As ``layouts``, with longer cells in the alphabet around a slice."""
    around = alphabet * 20
    wide = pa.array([around, None, *cells, around], pa.string())
    plain = pa.array(cells, pa.string())
    return [
        plain,
        wide[2:-1],
        plain.cast(pa.large_string()),
        plain.dictionary_encode(),
    ]


@given(
    st.lists(st.tuples(st.dates(), st.integers(0, 5)), max_size=30), keys, st.integers(1, 40_000)
)
def test_moved_dates_keep_the_intervals_of_every_entity(
    rows: list[tuple[object, int]], key: bytes, days: int
) -> None:
    dates = pa.array([day for day, _ in rows], pa.date32())
    entities = pa.array([entity for _, entity in rows], pa.int64())
    moved = shift_dates(dates, entities, key, days).cast(pa.int32()).to_pylist()
    before = dates.cast(pa.int32()).to_pylist()
    offsets = {
        (entity, after - was) for (_, entity), was, after in zip(rows, before, moved, strict=True)
    }
    assert len(offsets) == len({entity for _, entity in rows})
    assert all(0 < abs(offset) <= days for _, offset in offsets)
    text = entities.cast(pa.string()).dictionary_encode()
    assert shift_dates(dates, text, key, days).cast(pa.int32()).to_pylist() == moved


IDENTIFIERS = (
    "a@b.co", "://", "www.a", "http://x", "10.0.0.255", "2001:db8::1", "1:2:3:4:5:6:7:8", "::", "1:2:3:4:5:6:1.2.3.4",
    "00:1B:44:11:3A:B7", "aa-bb-cc-dd-ee-ff", "123-45-6789", "(212) 555-1234", "212.555.1234", "+49 30 1234567", "+1",
    "4111 1111 1111 1111", "378282246310005", "5500-0000-0000-0004", "DE89370400440532013000",
    "GB82 WEST 1234 5698 7654 32", "NO9386011117947", "943 476 5919", "9434765919", "NPI 1234567893",
    "1M8GDM9AXKP042788", "2024-02-29", "31.12.1999", "12/31/1999", "MRN: 123456", "medical record no is A-12345",
    "patient id #", "Länge 1,5 mg ", "x" * 70, "canary",
)  # fmt: skip


@st.composite
def altered(draw: st.DrawFn) -> str:
    """An identifier, or one but for a character that is missing, doubled or another."""
    text = draw(st.sampled_from(IDENTIFIERS))
    place = draw(st.integers(0, len(text)))
    put = draw(st.sampled_from(["", "0", "5", "X", " ", "-", ".", ":", "@", "+", "ü"]))
    return draw(
        st.sampled_from(
            [text, text, text[:place] + put + text[place + 1 :], text[:place] + put + text[place:]]
        )
    )


fragments = st.one_of(
    altered(),
    st.text("0123456789", max_size=20),
    st.text("0123456789 -./:@+()", max_size=30),
    st.text("0123456789abcdefABCDEF:", max_size=30),
    st.text("w.@:/-aZ0\n ", max_size=12),
    st.text(max_size=5),
)
rows = st.one_of(st.none(), st.lists(fragments, max_size=6).map("".join), altered())


def found_everywhere(cells: list[str | None]) -> list[Hit]:
    """Every exact matcher at every place of every cell."""
    hits = []
    for row, cell in enumerate(cells):
        text = (cell or "").encode()
        names = [name for name, one in DETECTORS.items() if one.starts_in(text, 0, len(text))]
        if "canary" in (cell or ""):
            names.append(CANARY)
        hits += [Hit(row, name) for name in sorted(names)]
    return hits


@settings(max_examples=150)
@given(st.lists(rows, max_size=12))
def test_the_scan_finds_what_every_matcher_finds_everywhere(cells: list[str | None]) -> None:
    expected = found_everywhere(cells)
    for form in layouts(cells):
        assert scan(form, canaries=["canary"]) == expected
    wide = pa.array(["9434765919", *cells, "123-45-6789"], pa.string())
    beneath = pa.Array.from_buffers(
        pa.string(),
        len(wide),
        [
            pa.array([False] + [c is not None for c in cells] + [False]).buffers()[1],
            *wide.buffers()[1:],
        ],
    )
    assert scan(beneath, canaries=["canary"]) == [
        Hit(hit.row + 1, hit.detector) for hit in expected
    ]
