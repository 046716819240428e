"""The error taxonomy: one class for each thing that the caller can do about it.

Every error carries a stable ``code`` (for programs), a message (for people) and a remedy. A peer is
only ever told the code: messages may quote local paths and never leave the process that raised them.
"""

from __future__ import annotations

__all__ = [
    "AttestationError",
    "BudgetExhausted",
    "ConfigError",
    "ContributionRejected",
    "DecodeError",
    "LedgerError",
    "LocalProtocolError",
    "PolicyDenied",
    "RemoteProtocolError",
    "RoundAborted",
    "SignatureError",
    "TacitError",
    "TransportError",
    "VerificationError",
]


class TacitError(Exception):
    """Root of all errors that Tacit raises on purpose.

    Args:
        code: Stable, dotted, lower-case identifier, for example ``config.unknown-key``.
        message: What happened, naming file, key, row or party. Never holds a secret or a data value.
        remedy: What the reader can do about it.
        details: Further facts for ``--json`` output, each a string or an integer.
    """

    def __init__(self, code: str, message: str, *, remedy: str = "", **details: str | int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.details: dict[str, str | int] = details

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def diagnostics(self) -> dict[str, str | int]:
        """Everything that a person or a script needs: kind, code, message, remedy and details."""
        return {
            "error": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
            **self.details,
        }


class ConfigError(TacitError):
    """A file that a person wrote is wrong: fix the file."""


class PolicyDenied(TacitError):
    """A site's policy says no: read the rule id."""


class BudgetExhausted(TacitError):
    """The privacy budget does not cover the request: see spent and limit."""


class LocalProtocolError(TacitError):
    """This process misused the protocol: fix the caller."""


class RemoteProtocolError(TacitError):
    """A peer broke the protocol: exclude the named party."""


class DecodeError(TacitError):
    """Bytes are not a valid message: reject them. The only error that a decoder raises."""


class RoundAborted(TacitError):
    """A round or run ended without a result.

    Args:
        retryable: Whether the same request may succeed later.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool,
        remedy: str = "",
        **details: str | int,
    ) -> None:
        super().__init__(code, message, remedy=remedy, **details)
        self.retryable = retryable


class VerificationError(TacitError):
    """An object failed verification: do not trust it."""


class SignatureError(VerificationError):
    """A signature is missing, malformed or made by another key."""


class AttestationError(VerificationError):
    """Attestation evidence does not prove what the policy demands."""


class LedgerError(VerificationError):
    """A log, checkpoint or proof is inconsistent."""


class ContributionRejected(VerificationError):
    """A contribution is outside its declared bounds."""


class TransportError(TacitError):
    """Bytes could not be moved or stored: retry once the cause is removed."""
