"""Exact matchers for what must not be left in a column: formats, ranges and checksums, on bytes.

A matcher looks at one cell only. Whether it accepts a start depends on ``CONTEXT`` bytes before the start,
``sizes[1]`` bytes from it and ``CONTEXT`` bytes behind these, and on nothing else: so a search may run in
windows (``tacit.connect.residual``).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from operator import mul

__all__ = ["CONTEXT", "DETECTORS", "IBAN_LENGTHS", "Detector"]

CONTEXT = 2
"""Bytes before and behind an identifier that may matter."""


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of identifier.

    Args:
        name: What is found.
        pattern: Matches nothing at a place where the identifier may start, and holds it as group 1.
        sizes: Bytes of the shortest identifier, at most, and of the longest one, at least.
        check: Whether what has the format is one: ranges and checksums; None where the format is all.
    """

    name: str
    pattern: re.Pattern[bytes]
    sizes: tuple[int, int]
    check: Callable[[bytes], bool] | None = None

    def starts_in(self, text: bytes, first: int, last: int) -> bool:
        """Whether one starts at ``first`` to ``last``, both included, in ``text``."""
        if first == last:
            match = self.pattern.match(text, first)
            return match is not None and (self.check is None or self.check(match[1]))
        for match in self.pattern.finditer(text, first):
            if match.start() > last:
                return False
            if self.check is None or self.check(match[1]):
                return True
        return False


def _luhn(digits: bytes) -> bool:
    """ISO/IEC 7812-1, annex B."""
    values = [digit - 48 for digit in digits[::-1]]
    doubled = sum(value * 2 - 9 * (value > 4) for value in values[1::2])
    return (sum(values[::2]) + doubled) % 10 == 0


def _is_card(text: bytes) -> bool:
    """13 to 19 digits that end where a group ends, with a valid check digit (ISO/IEC 7812-1)."""
    digits = b""
    for group in re.split(b"[ -]", text):
        digits += group
        if 13 <= len(digits) <= 19 and _luhn(digits):
            return True
    return False


IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""Characters of an IBAN by country: the registry of ISO 13616."""


def _is_iban(text: bytes) -> bool:
    """Check digits modulo 97 over as many characters as the country's numbers have (ISO 7064)."""
    length = IBAN_LENGTHS.get(text[:2].decode(), 99)
    compact = text.replace(b" ", b"").decode()[:length]
    moved = compact[4:] + compact[:4]
    return len(compact) == length and int("".join(str(int(x, 36)) for x in moved)) % 97 == 1


def _is_nhs(text: bytes) -> bool:
    """Check digit modulo 11 (NHS Data Dictionary, NHS number)."""
    digits = text.replace(b" ", b"").replace(b"-", b"")
    total = sum(map(mul, digits, range(10, 1, -1))) - 48 * 54
    return bool((11 - total % 11) % 11 == digits[9] - 48)


def _is_npi(text: bytes) -> bool:
    """Check digit over the number behind the prefix 80840 (45 CFR 162.406)."""
    return _luhn(b"80840" + text[-10:])


_VIN_VALUES = dict(zip("0123456789ABCDEFGHJKLMNPRSTUVWXYZ", [*range(10), *range(1, 9), *range(1, 6), 7, 9, *range(2, 10)], strict=True))  # fmt: skip
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def _is_vin(text: bytes) -> bool:
    """Check digit modulo 11 in the ninth place (49 CFR 565.15), and not digits only."""
    vin = text.decode().upper()
    total = sum(_VIN_VALUES[x] * weight for x, weight in zip(vin, _VIN_WEIGHTS, strict=True))
    return vin[8] == "0123456789X"[total % 11] and not vin.isdigit()


def _is_date(text: bytes) -> bool:
    """A day that exists from 1800 to 2199, year first or last; but for points, in either order."""
    first, middle, last = text.replace(b"-", b"/").replace(b".", b"/").split(b"/")
    if len(first) == 4:
        return _is_day(int(first), int(middle), int(last))
    if _is_day(int(last), int(middle), int(first)):
        return True
    return b"." not in text and _is_day(int(last), int(first), int(middle))


def _is_day(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return 1800 <= year < 2200


def _is_ipv6(text: bytes) -> bool:
    """An address of RFC 4291 section 2.2 with at least one digit; a colon behind it ends a sentence."""
    if text.endswith(b":") and not text.endswith(b"::"):
        text = text[:-1]
    try:
        ipaddress.IPv6Address(text.decode())
    except ValueError:
        return False
    return text != b"::"


def _is_phone(text: bytes) -> bool:
    """North American numbers have their format; others 8 to 15 digits (E.164) that end with a group."""
    if not text.startswith(b"+"):
        return True
    count = 0
    for group in re.findall(b"[0-9]+", text):
        count += len(group)
        if 8 <= count <= 15:
            return True
    return False


_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = rb"[0-9A-Za-z\x80-\xff-]{1,63}\."
_ALONE = rb"(?<![0-9])(?<![0-9]-)", rb"(?![0-9]|-[0-9])"
_CUE = (
    rb"(?:MRN|MR ?#|medical[ _-]record(?:[ _-](?:number|num|no))?|"
    rb"(?:patient|hospital)[ _-](?:id|number|no))"
)
_AREA = rb"(?:(?:\+?1[-. ]?)?\([2-9][0-9]{2}\)[-. ]?|(?:\+?1[-. ])?[2-9][0-9]{2}[-. ])"
_ABROAD = rb"\+[1-9][0-9]{0,14}(?![0-9])(?:\)?[-./ ]?\(?[0-9]{1,12}(?![0-9])){0,7}"


def _detector(
    name: str,
    pattern: bytes,
    sizes: tuple[int, int],
    check: Callable[[bytes], bool] | None = None,
    flags: re.RegexFlag = re.NOFLAG,
) -> Detector:
    return Detector(name, re.compile(pattern, flags), sizes, check)


DETECTORS = {
    detector.name: detector
    for detector in (
        # One character of the name is enough: whose address it is does not matter here.
        _detector(
            "email",
            rb"(?=([^\s@,;:<>()\[\]\"]@(?:" + _LABEL + rb"){1,6}[A-Za-z\x80-\xff]{2}))",
            (6, 390),
        ),
        _detector(
            "url",
            rb"(?=([0-9A-Za-z]://[0-9A-Za-z\x80-\xff_%\[]|(?<![0-9A-Za-z.])www\.[0-9A-Za-z\x80-\xff]))",
            (5, 6),
            None,
            re.IGNORECASE,
        ),
        _detector(
            "ipv4",
            rb"(?<![0-9.])(?=(" + _OCTET + rb"(?:\." + _OCTET + rb"){3})(?!\.?[0-9]))",
            (7, 18),
        ),
        _detector(
            "ipv6",
            rb"(?<![0-9A-Za-z:.])(?=((?:[0-9A-Fa-f]{0,4}:){2,8}[0-9A-Fa-f]{0,4}(?:(?<=[0-9])(?:\.[0-9]{1,3}){3})?)(?![0-9A-Za-z]))",
            (3, 60),
            _is_ipv6,
        ),
        _detector(
            "mac",
            rb"(?<![0-9A-Za-z])(?=([0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\2){4}[0-9A-Fa-f]{2})(?![0-9A-Za-z]))",
            (17, 18),
        ),
        # The Social Security Administration never assigns the excluded numbers (POMS RM 10201.035).
        _detector(
            "us_ssn",
            _ALONE[0]
            + rb"(?=((?!000|666|9)[0-9]{3}([- ])(?!00)[0-9]{2}\2(?!0000)[0-9]{4})"
            + _ALONE[1]
            + rb")",
            (11, 13),
        ),
        _detector(
            "phone",
            rb"(?=("
            + _ABROAD
            + rb"|(?<![0-9])(?<![0-9][-.])"
            + _AREA
            + rb"[2-9][0-9]{2}[-. ][0-9]{4}"
            + _ALONE[1]
            + rb"))",
            (9, 130),
            _is_phone,
        ),
        _detector(
            "credit_card",
            rb"(?<![0-9])(?=([2-6][0-9]{2,18}(?![0-9])(?:[- ][0-9]{3,7}(?![0-9])){0,4}))",
            (13, 54),
            _is_card,
        ),
        _detector(
            "iban",
            rb"(?<![0-9A-Za-z])(?=([A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]){11,30}))",
            (15, 66),
            _is_iban,
        ),
        _detector(
            "uk_nhs",
            _ALONE[0] + rb"(?=([0-9]{3}([- ]?)[0-9]{3}\2[0-9]{4})" + _ALONE[1] + rb")",
            (10, 14),
            _is_nhs,
        ),
        _detector(
            "us_npi",
            rb"(?<![A-Za-z])(?=(NPI[\s:#.=-]{0,4}[12][0-9]{9})(?![0-9]))",
            (13, 18),
            _is_npi,
            re.IGNORECASE,
        ),
        _detector(
            "vin",
            rb"(?<![0-9A-Za-z])(?=([0-9A-HJ-NPR-Z]{13}[0-9]{4})(?![0-9A-Za-z]))",
            (17, 18),
            _is_vin,
            re.IGNORECASE,
        ),
        _detector(
            "date",
            rb"(?<![0-9])(?=([0-9]{4}([-./])[0-9]{1,2}\2[0-9]{1,2}|[0-9]{1,2}([-./])[0-9]{1,2}\3[0-9]{4})(?![0-9]))",
            (8, 11),
            _is_date,
        ),
        _detector(
            "medical_record",
            rb"(?<![A-Za-z])(?=("
            + _CUE
            + rb"(?: is)?[\s:#.=-]{0,4}[A-Z]{0,3}-?[0-9]{5,12})(?![0-9]))",
            (8, 60),
            None,
            re.IGNORECASE,
        ),
    )
}
