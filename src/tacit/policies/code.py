"""``tacit policy code``: the digest of a model file, and the rule that lets a site run it and no other."""

from __future__ import annotations

from pathlib import Path

from tacit.engine.folder import CODE, SiteFolder
from tacit.errors import ConfigError
from tacit.learn.code import read_code
from tacit.learn.feature_map import FeatureMap
from tacit.party.job import JobSpec
from tacit.policies.comparison import print_json
from tacit.show import console, plain
from tacit.types import Digest

__all__ = ["code"]

SHIPPED = "logistic"


def code(site: Path, file: Path, *, job: Path | None = None, as_json: bool = False) -> int:
    """Prints the digest of a model file as a run names it, and a rule that pins it.

    Nothing of the file is run.

    Args:
        site: The site folder.
        file: A file in the site's folder ``code``, or ``logistic``.
        job: A job whose feature map, which the digest covers, is other than none.
        as_json: Whether to print one JSON object.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: The file is missing, or lies elsewhere.
    """
    digest = _digest(site, file, job).hex()
    rule = (
        '@id("approved-code")\n'
        'forbid (principal, action == Action::"train", resource)\n'
        f'unless {{ context.code_digest == "{digest}" }};'
    )
    if as_json:
        print_json({"file": str(file), "digest": digest, "rule": rule})
        return 0
    out = console()
    out.print(plain(f"{file}: {digest}"))
    out.print(plain(f"\nThis rule lets runs use this code and no other:\n\n{rule}"))
    return 0


def _digest(site: Path, file: Path, job: Path | None) -> Digest:
    folder = site / CODE
    feature_map = FeatureMap()
    if job is not None:
        spec = JobSpec.load(job)
        contract = SiteFolder.load(site).contracts.get(spec.data.contract)
        if contract is None:
            raise ConfigError(
                "site.contract",
                f"site {site} has no contract named '{spec.data.contract}'",
                remedy="correct data.contract in the job, or add the contract at the site",
                key="data.contract",
            )
        options, columns = spec.features, len(contract.schema().features)
        size = (options.height, options.width)
        feature_map = FeatureMap.load(options.map, size, options.file(folder), columns)
    if str(file) == SHIPPED:
        return read_code(SHIPPED, folder, feature_map=feature_map).code
    path = file.resolve()
    if not path.is_file() or not path.is_relative_to(folder.resolve()):
        raise ConfigError(
            "policy.code-place",
            f"{file} is not a file in {folder}: a site that serves a federation runs no other",
            remedy=f"read the model's file, copy it into {folder}, and name the copy",
            file=str(file),
        )
    named = path.relative_to(folder.resolve()).as_posix()
    return read_code(f"{named}:Model", folder, feature_map=feature_map).code
