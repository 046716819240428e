from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from tacit.connect.patterns import DETECTORS
from tacit.connect.residual import ALL, CANARY, Hit, counts, scan

POSITIVES = {
    "email": ["a@b.co", "write to Jürgen.Müller+x@mail.example-hospital.org.", "<x@münchen.de>"],
    "url": ["see http://x.y/z", "HTTPS://EXAMPLE.ORG", "www.example.org", "ftp://[::1]/", "(Www.a.de)"],
    "ipv4": ["10.0.0.1", "at 255.255.255.255.", "http 192.168.1.20:8080"],
    "ipv6": ["2001:db8::1", "::1", "1:2:3:4:5:6:7:8", "fe80::1: up", "::ffff:1.2.3.4", "::2:3:4:5:6:7:8",
             "1:2:3:4:5:6:7.8.9.10", "2001:0DB8:0000:0000:0000:FF00:0042:8329", "x (fe80::) y", "1111:2222:3333:4444:5555:6666:7777::", "1111:2222:3333:4444:5555::1"],
    "mac": ["00:1B:44:11:3A:B7", "aa-bb-cc-dd-ee-ff"],
    "us_ssn": ["123-45-6789", "SSN123-45-6789", "899 99 9999 on file"],
    "phone": ["212-555-1234", "(212) 555-1234", "+1 (212) 555-1234", "1-212-555-1234", "212.555.1234",
              "1(212)555-1234", "+12125551234", "+49 30 1234567 on 2024-01-02", "+44 (0)20 7946 0958",
              "tel:+33.1.23.45.67.89"],
    "credit_card": ["4111111111111111", "4111 1111 1111 1111 12/26", "3782-822463-10005",
                    "5500 0000 0000 0004", "4222222222222", "6304000000000000000"],
    "iban": ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00 EUR", "IBAN:GB82WEST12345698765432",
             "NO9386011117947", "MT84MALT011000012345MTLCAST001S", "FR14 2004 1010 0505 0001 3M02 606"],
    "uk_nhs": ["943 476 5919", "943-476-5919", "NHS 9434765919.", "401 023 2137"],
    "us_npi": ["NPI: 1234567893", "npi 1234567893", "NPI#1245319599"],
    "vin": ["1M8GDM9AXKP042788", "vin 1hgcm82633a004352,"],
    "date": ["2024-02-29", "2024-02-29T10:00", "31.12.1999", "1.2.2024", "12/31/1999", "31/12/1999",
             "on 01-02-2003.", "2024/3/1"],
    "medical_record": ["MRN: 123456", "mrn=A-12345", "Medical record number is 0012345", "MR #00123",
                       "patient id: AB1234567", "Hospital No 99999"],
}  # fmt: skip

NEGATIVES = {
    "email": ["a @ b", "@home", "user@host", "a@b.", "a@.co", "5@3.50"],
    "url": ["a:// b", "www.", "awww.b", "http:/x", "ratio 1://"],
    "ipv4": ["1.2.3", "256.1.1.1", "1.2.3.4.5", "1.2.3.1234", "01.2.3.4"],
    "ipv6": ["10:30:00", "std::vector", "::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::1", "a::b::c"],
    "mac": ["00:1B:44:11:3A", "00:1B:44:11:3A:B", "00:1B-44:11-3A:B7", "x00:1B:44:11:3A:B7", "00:1G:44:11:3A:B7"],
    "us_ssn": ["000-45-6789", "666-45-6789", "900-45-6789", "123-00-6789", "123-45-0000", "123-45 6789",
               "1123-45-6789", "123-45-67890", "123-45-678", "123456789",
               "2-123-45-6789", "123-45-6789-1"],
    "phone": ["112-555-1234", "212-155-1234", "212-555-123", "212-555-12345", "2125551234", "+1234567",
              "+2 edema 12", "+1234567890123456", "120/80 212"],
    "credit_card": ["4111111111111112", "411111111111", "1111 1111 1111 1117", "4111 1111 1111 11 11",
                    "41111111111111111111", "4 111 111 111 111 111"],
    "iban": ["DE89370400440532013001", "DE8937040044053201300", "XX89370400440532013000",
             "xDE89370400440532013000", "de89370400440532013000"],
    "uk_nhs": ["943 476 5918", "9434765918", "943 476 591", "94347659190", "943-476 5919"],
    "us_npi": ["NPI: 1234567890", "1234567893", "NPI: 123456789", "NPI 3234567893"],
    "vin": ["1M8GDM9A1KP042788", "1M8GDM9AXKP04278", "1M8GDM9AXKP0427889", "IM8GDM9AXKP042788",
            "11111111111111111", "1M8GDM9AXKP0427BB"],
    "date": ["2023-02-29", "32.12.1999", "12.31.1999", "13/31/1999", "2024-13-01", "1700-01-01",
             "2024-1/2", "1.2.24", "12024-01-02", "2024-01-021"],
    "medical_record": ["123456", "MRN: 1234", "xMRN: 123456", "record 123456", "MRN 1234567890123"],
}  # fmt: skip


def found(text: str) -> set[str]:
    return {hit.detector for hit in scan(pa.array([text]))}


@pytest.mark.parametrize("detector", ALL)
def test_every_detector_finds_its_identifiers(detector: str) -> None:
    for text in POSITIVES[detector]:
        assert detector in found(text), text
        assert detector in found(f"The note says {text} and goes on."), text
        assert detector in found(f"{'Länger, 5 mg; ' * 40}{text}\n{'und so weiter 1.5 ' * 40}"), (
            text
        )


@pytest.mark.parametrize("detector", ALL)
def test_every_detector_leaves_near_misses(detector: str) -> None:
    for text in NEGATIVES[detector]:
        assert detector not in found(text), text
        assert detector not in found(f"{'A long line before ' * 5}{text} and one behind"), text


@pytest.mark.parametrize("detector", ALL)
def test_one_detector_alone_finds_the_same(detector: str) -> None:
    texts = [text for group in POSITIVES.values() for text in group]
    everything = [hit for hit in scan(pa.array(texts)) if hit.detector == detector]
    assert scan(pa.array(texts), [detector]) == everything != []


def test_ordinary_notes_and_codes_have_no_hits() -> None:
    texts = ["BP 120/80 mmHg, pulse 72, SpO2 98%", "E11.9", "J45.40", "Na 138, K 4.1, Cr 0.9 at 10:30",
             "stage II - follow-up in 2-3 weeks", "", "12345", "2024", "ratio 1:2:3", "C++ 11.4.1"]  # fmt: skip
    assert scan(pa.array(texts)) == []


def test_every_cell_is_looked_at_alone() -> None:
    """Halves of identifiers in neighbouring cells are none, and neighbours hide none."""
    halves = [
        "a@",
        "b.co",
        "123-45",
        "-6789",
        "10.0.",
        "0.1",
        "94347",
        "65919",
        "2024-",
        "01-01",
        "ftp:",
        "//x",
    ]
    assert scan(pa.array(halves)) == []
    assert [
        hit.row for hit in scan(pa.array(["9", "9434765919", "9", "5", "4111111111111111", "1"]))
    ] == [1, 4]
    assert [hit.row for hit in scan(pa.array(["x", "1M8GDM9AXKP042788", "x"]))] == [1]


def test_nulls_hold_nothing_and_hide_nothing() -> None:
    below = pa.array(["9434765919", "123-45-6789", "4", "a@b.co", "2024-01-01", "7"])
    mask = pa.array([True, False, False, True, True, False]).buffers()[1]
    cells = pa.Array.from_buffers(pa.string(), 6, [mask, *below.buffers()[1:]])
    assert scan(cells, canaries=["123", "5919"]) == [
        Hit(0, CANARY),
        Hit(0, "uk_nhs"),
        Hit(3, "email"),
        Hit(4, "date"),
    ]


def test_rows_of_slices_chunks_and_dictionaries() -> None:
    cells = pa.array(["no", None, "a@b.co 10.0.0.1", "no", "c@d.de"])
    hits = [Hit(2, "email"), Hit(2, "ipv4"), Hit(4, "email")]
    assert scan(cells) == hits
    assert scan(cells.dictionary_encode()) == hits
    assert scan(cells.cast(pa.large_string())) == hits
    assert scan(cells[2:]) == [hit._replace(row=hit.row - 2) for hit in hits]
    assert scan(pa.chunked_array([cells[:2], cells[2:2], cells[2:]])) == hits
    assert scan(pa.array([], pa.string())) == scan(pa.array([None, None])) == []


def test_a_value_of_a_dictionary_is_found_in_all_its_rows_and_no_others() -> None:
    unused = pa.DictionaryArray.from_arrays(
        pa.array([1, None, 1, 0]), pa.array(["no", "a@b.co", "c@d.de"])
    )
    assert scan(unused) == [Hit(0, "email"), Hit(2, "email")]


def test_columns_longer_than_one_pass() -> None:
    """Passes end between cells, also where one cell alone is longer than a pass."""
    cells = ["word " * 200] * 2_000
    cells[777], cells[1999] = "x" * 2**20 + " 123-45-6789 " + "5" * 2**20, "10.0.0.1"
    assert scan(pa.array(cells)) == [Hit(777, "us_ssn"), Hit(1999, "ipv4")]
    short = ["E11.9"] * 300_000
    short[150_000] = "a@b.co"
    assert scan(pa.array(short)) == [Hit(150_000, "email")]


def test_canaries_are_found_as_they_stand() -> None:
    cells = pa.array(["a canary-ü", "canary", "ünd", None, "aaa", "CANARY-Ü"])
    assert scan(cells, canaries=["canary-ü", "yü", "aa"]) == [Hit(0, CANARY), Hit(4, CANARY)]
    assert scan(cells, [], ["ü"]) == [Hit(0, CANARY), Hit(2, CANARY)]


def test_hits_are_counted_by_detector_and_show_no_value() -> None:
    hits = scan(pa.array(["a@b.co", "c@d.de 2024-01-01", "secret"]), canaries=["secret"])
    assert counts(hits) == {CANARY: 1, "date": 1, "email": 2}
    assert counts([]) == {}
    assert "secret" not in repr(hits)
    assert "b.co" not in repr(hits)


def test_what_cannot_be_scanned_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown detectors: name"):
        scan(pa.array(["x"]), ["email", "name"])
    with pytest.raises(ValueError, match="at least one character"):
        scan(pa.array(["x"]), canaries=["a", ""])
    with pytest.raises(ValueError, match="only text"):
        scan(pa.array([123456789]))


def widths(pattern: list[tuple[Any, Any]]) -> tuple[int, int]:
    """Bytes that group 1 of a parsed pattern may hold, at least and at most."""
    for kind, content in pattern:
        if kind is re._constants.ASSERT:
            return widths(content[1])
        if kind is re._constants.SUBPATTERN and content[0] == 1:
            return content[3].getwidth()
    raise AssertionError("a pattern holds the identifier as group 1 of what it looks ahead at")


@pytest.mark.parametrize("detector", ALL)
def test_no_matcher_looks_farther_than_its_sizes(detector: str) -> None:
    """Otherwise a window could cut what an exact matcher would find, or end what goes on."""
    chosen = DETECTORS[detector]
    parsed = re._parser.parse(chosen.pattern.pattern, chosen.pattern.flags & re.IGNORECASE)
    # A check may ask for more than the pattern does: digits of a phone, a card or an IPv6 address.
    asked = {"phone": 9, "credit_card": 13, "ipv6": 3}
    shortest, longest = widths(parsed)
    assert chosen.sizes[0] <= max(shortest, asked.get(detector, 0))
    assert chosen.sizes[1] >= longest


def test_the_longest_identifiers_are_found() -> None:
    domain = ".".join(["d" * 63] * 6) + ".org"
    assert "email" in found(f"{'y' * 500} x@{domain} {'y' * 500}")
    assert "medical_record" in found("9 medical-record-number is    ABC-123456789012 9")
    assert "ipv6" in found("x 2001:0db8:0000:0000:0000:ff00:255.255.255.255 x")
    assert "phone" in found("x +1) (2) (3) (4) (5) (6) (7) (890) x")
