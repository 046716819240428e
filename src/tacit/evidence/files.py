"""A bundle verified as people have it: as files, and with a page to print if they like."""

from __future__ import annotations

from pathlib import Path

from tacit.evidence.report import Report
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle

__all__ = ["verify"]


def verify(
    bundle: str | Path, trust: str | Path | None = None, *, html: str | Path | None = None
) -> Report:
    """Checks an evidence bundle offline; without a trust file authenticity is not proven.

    Args:
        bundle: The ``bundle.zip`` of a run.
        trust: Whom you trust.
        html: Where to write the result as a page for people, whatever it is (``tacit[report]``).

    Raises:
        ConfigError: The bundle or the trust file is missing, or the trust file is malformed, or a page
            is asked for and its packages are not installed.
        TransportError: The disk refuses the page.
    """
    trusted = Trust.load(Path(trust)) if trust is not None else None
    if html is None:
        return verify_bundle(Path(bundle), trusted)
    from tacit.evidence.render import write_page  # noqa: PLC0415 - packages that few need

    return write_page(Path(bundle), trusted, Path(html))
