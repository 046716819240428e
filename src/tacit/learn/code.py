"""From a job's ``model`` key to a model and the digest of the code that defines it."""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tacit.errors import ConfigError, PolicyDenied
from tacit.files import read_limited
from tacit.learn.feature_map import FeatureMap
from tacit.learn.models import LogisticRegression, Model
from tacit.types import Digest

if TYPE_CHECKING:
    from tacit.learn.torch_model import TorchModel

__all__ = ["LoadedModel", "ModelCode", "code_digest", "load_model", "read_code"]

_SIZE_LIMIT = 1024 * 1024
_SHIPPED = {"logistic": LogisticRegression}
_SPEC = re.compile(r"(?P<file>[A-Za-z0-9_./-]+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and where it comes from.

    Args:
        model: The model.
        code: SHA-256 of the code that defines it.
        pinned: Whether ``code`` covers source files; false for objects of a notebook.
        feature_map: What becomes of the columns before the model sees them; ``code`` covers it.
    """

    model: Model
    code: Digest
    pinned: bool
    feature_map: FeatureMap = FeatureMap()  # noqa: RUF009 - frozen


def load_model(
    spec: str,
    base: Path,
    *,
    features: int,
    classes: int,
    expected: Digest | None = None,
    feature_map: FeatureMap = FeatureMap(),  # noqa: B008 - frozen
) -> LoadedModel:
    """Loads a shipped model or ``file.py:Name``.

    The file's code runs in this process, with its rights: a site decides by policy and by the digest
    that stands in the offer. What runs is the very bytes that were hashed.

    Args:
        spec: ``logistic``, or a file relative to ``base`` and a ``torch.nn.Module`` subclass in it
            whose constructor takes ``features`` and ``classes``. A function ``loss(logits, labels)``
            in the file replaces cross-entropy.
        base: Folder of the job file.
        features: Number of feature columns of a record.
        classes: Number of classes.
        expected: Digest that the code must have; any other code is refused before it runs.
        feature_map: What becomes of the columns first; its digest enters that of the code.

    Raises:
        PolicyDenied: The code is not the expected one.
        ConfigError: Unknown model, missing file or name, code that fails, an unsuitable module, or
            torch is not installed.

    Guarantee:
        ``code`` changes whenever a byte of a named source file or its path changes. Test:
        ``tests/unit/test_learn_code.py::test_any_changed_byte_changes_the_digest``.
    """
    found = read_code(spec, base, expected=expected, feature_map=feature_map)
    model = found.load(feature_map.dimension(features), classes)
    return LoadedModel(model, found.code, pinned=True, feature_map=feature_map)


@dataclass(frozen=True, slots=True)
class ModelCode:
    """The code of a model, read and hashed; nothing of it has run.

    Args:
        spec: ``logistic`` or ``file.py:Name``.
        path: Where the file was read; for messages only.
        source: The file's bytes, which are what ``load`` runs; empty for a shipped model.
        code: SHA-256 of the code, and of the feature map where there is one.
    """

    spec: str
    path: Path
    source: bytes
    code: Digest

    def load(self, features: int, classes: int) -> Model:
        """Runs the code in this process and makes the model.

        Args:
            features: Number of features that the model sees.
            classes: Number of classes.

        Raises:
            ConfigError: See ``load_model``.
        """
        if self.spec in _SHIPPED:
            return _SHIPPED[self.spec](features, classes)
        return _torch_model(self.source, self.path, _match(self.spec)["name"], features, classes)


def read_code(
    spec: str,
    base: Path,
    *,
    expected: Digest | None = None,
    feature_map: FeatureMap = FeatureMap(),  # noqa: B008 - frozen
) -> ModelCode:
    """Reads the code of a model without running it.

    Args:
        spec: As ``load_model`` takes it.
        base: Folder in which its file lies.
        expected: Digest that the code must have.
        feature_map: Its digest enters that of the code.

    Raises:
        PolicyDenied: The code is not the expected one.
        ConfigError: Unknown model, or its file is missing.
    """
    if spec in _SHIPPED:
        code = feature_map.code(_shipped_digest())
        _require(code, expected, spec)
        return ModelCode(spec, base, b"", code)
    path = PurePosixPath(_match(spec)["file"])
    if path.is_absolute() or ".." in path.parts:
        raise _bad_spec(spec, "name a file inside the job's folder")
    source = read_limited(base / path, _SIZE_LIMIT)
    code = feature_map.code(code_digest([(str(path), source)]))
    _require(code, expected, spec)
    return ModelCode(spec, base / path, source, code)


def _match(spec: str) -> re.Match[str]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise _bad_spec(spec, "write 'logistic' or 'file.py:ClassName'")
    return match


def _require(code: Digest, expected: Digest | None, spec: str) -> None:
    if expected is not None and code != expected:
        raise PolicyDenied(
            "learn.other-code",
            f"the code of model '{spec}' here ({code.hex()}) is not the code that the run names "
            f"({expected.hex()})",
            remedy="every site must review and install the same model file, and the same version of "
            "Tacit; 'tacit policy code' prints the digest of a file",
        )


def code_digest(files: Iterable[tuple[str, bytes]]) -> Digest:
    """SHA-256 over relative paths and contents, each with its length in front, in path order."""
    hasher = hashlib.sha256(b"tacit code v1\x00")
    for path, content in sorted(files):
        for part in (path.encode(), content):
            hasher.update(len(part).to_bytes(8, "big") + part)
    return Digest(hasher.digest())


def _shipped_digest() -> Digest:
    folder = Path(__file__).parent
    return code_digest(
        (f"tacit/learn/{path.name}", path.read_bytes()) for path in folder.glob("*.py")
    )


def _torch_model(source: bytes, path: Path, name: str, features: int, classes: int) -> TorchModel:
    try:
        from torch import nn  # noqa: PLC0415 - optional: only a job with its own module needs it

        from tacit.learn.torch_model import TorchModel  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(
            "learn.torch-missing",
            f"{path} needs PyTorch, which is not installed",
            remedy="pip install 'tacit[torch]'",
            file=str(path),
        ) from error
    content = vars(_execute(source, path))
    kind = content.get(name)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        known = [key for key, value in content.items() if _defines(value, path, nn.Module)]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise ConfigError(
            "learn.model-name",
            f"{path} has no torch.nn.Module class '{name}'",
            remedy=f"did you mean '{nearest[0]}'?"
            if nearest
            else f"classes there: {', '.join(known) or 'none'}",
            file=str(path),
        )
    loss = content.get("loss", nn.functional.cross_entropy)
    try:
        return TorchModel(
            lambda: kind(features, classes), features=features, classes=classes, loss=loss
        )
    except ConfigError as error:
        raise ConfigError(
            error.code, f"{path}: {error.message}", remedy=error.remedy, file=str(path)
        ) from error
    except Exception as error:
        raise _failed(path, f"{name}({features}, {classes})", error) from error


def _defines(value: Any, path: Path, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value.__module__ == _title(path)


def _title(path: Path) -> str:
    """Module name of a job's file: outside any package and free of clashes with installed ones."""
    return f"tacit_job_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]}"


def _execute(source: bytes, path: Path) -> ModuleType:
    """Runs the bytes themselves: reading the file again could run others than were hashed."""
    module = ModuleType(_title(path))
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and typing look annotations up there
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102 - the job's model is code; see load_model
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise _failed(path, "the file", error) from error
    return module


def _failed(path: Path, what: str, error: BaseException) -> ConfigError:
    line = f" on line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    return ConfigError(
        "learn.model-code",
        f"{path}: {what} fails{line}: {type(error).__name__}: {error}",
        remedy="correct the code; the class takes (features: int, classes: int)",
        file=str(path),
    )


def _bad_spec(spec: str, remedy: str) -> ConfigError:
    return ConfigError("learn.model-spec", f"unknown model '{spec}'", remedy=remedy)
