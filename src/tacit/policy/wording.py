"""What becomes of a column, in words: for tables, exports and receipts."""

from __future__ import annotations

from tacit.policy.column import Column

__all__ = ["treatment"]


def treatment(column: Column, *, entity: bool = False) -> str:
    """What becomes of a column, in words; every parameter is named.

    Args:
        column: The column.
        entity: Whether it is the contract's entity key.
    """
    text = _method(column)
    if column.impute is not None:
        text += f"; empty cells as {column.impute!r}"
    if entity:
        text += "; the entity key"
    return text


def _method(column: Column) -> str:
    how = column.transform
    period = "" if how.period in (None, "none") else f", a new key every {how.period}"
    texts = {
        "drop": "dropped",
        "token": f"replaced by a keyed token{period}",
        "ff1": f"encrypted in its own format ({how.alphabet}){period}",
        "date-shift": f"moved by up to {how.days} days, alike for one entity{period}",
        "mask": f"stars, but for the last {how.visible} characters"
        if how.visible
        else "stars only",
        "prefix": f"first {how.length} characters only",
        "zip3": "first three digits of the ZIP code, 000 for sparse areas",
        "year": "year only",
        "decade": "decade only",
        "bins": f"lower edge of its bin of width {how.width}",
        "clamp": f"top and bottom coded to {how.lower!r} to {how.upper!r}",
        "vocabulary": f"one of {len(column.values or ())} values or {how.buckets} buckets",
        "quarantine": "rows with text are set aside",
    }
    if column.method == "age":
        day = f" on {how.on.isoformat()}" if how.on else ""
        return f"age{day} in groups of {how.width or 1} years, 90 and above as one"
    if column.method != "keep":
        return texts[column.method]
    if column.is_label:
        return f"kept as one of {', '.join(column.classes)}"
    (bounds,) = column.features()
    return f"kept within {bounds.lower!r} to {bounds.upper!r}"
