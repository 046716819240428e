"""What a test expects of a source that cannot be read."""

from __future__ import annotations

import traceback

import pytest

from tacit.connect.sources import Source
from tacit.errors import TacitError

__all__ = ["refused"]


def refused(
    kind: type[TacitError], code: str, source: Source, *declared: str, secret: str
) -> TacitError:
    """The error of reading everything: typed, with a remedy, and quoting ``secret`` nowhere.

    Args:
        kind: Class of the error.
        code: Its code.
        source: What is read.
        declared: Columns that are declared; those of its schema if none are given.
        secret: A value in the data, or a login.
    """
    with pytest.raises(kind) as caught:
        names = declared or tuple(source.schema().names)
        list(source.batches(names, names))
    error = caught.value
    assert error.code == code
    assert error.remedy
    assert error.__cause__ is None
    assert error.__context__ is None
    assert secret not in "".join(traceback.format_exception(error))
    return error
