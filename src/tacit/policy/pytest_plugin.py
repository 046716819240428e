"""Policy tests as tests of pytest: every ``tests/*.toml`` of a site folder, one item a test.

A site folder is one that holds ``site.toml`` and ``policies``.

Loaded with ``pytest -p tacit.policy.pytest_plugin``, or by its entry point where Tacit is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tacit.errors import TacitError

__all__ = ["PolicyTest", "PolicyTestFile", "pytest_collect_file"]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collects the policy tests of site folders."""
    # Of other projects, too, a site.toml may stand beside tests; names as load_cases takes them.
    wanted = file_path.suffix == ".toml" and not file_path.name.startswith((".", "__"))
    if not wanted or file_path.parent.name != "tests":
        return None
    site = file_path.parents[1]
    if not (site / "site.toml").is_file() or not (site / "policies").is_dir():
        return None
    collector: pytest.Collector = PolicyTestFile.from_parent(parent, path=file_path)
    return collector


class PolicyTestFile(pytest.File):
    """One file of policy tests."""

    def collect(self) -> Iterable[pytest.Item]:
        """Its tests.

        Raises:
            CollectError: The site's rules, contracts or tests cannot be read.
        """
        # Nothing of this is needed where a project without policies is tested.
        from tacit.policy.cases import run_case  # noqa: PLC0415
        from tacit.policy.folder import PolicyFolder  # noqa: PLC0415

        try:
            site = PolicyFolder.load(self.path.parents[1])
        except TacitError as error:
            raise self.CollectError(str(error)) from error
        content = site.tests[self.path.name]
        for case in content.test:

            def ask(case: Any = case) -> Any:
                return run_case(site.policy, site.contracts, site.region, case, content.defaults)

            yield PolicyTest.from_parent(self, name=case.name, callobj=ask)


class PolicyTest(pytest.Item):
    """One test of a policy."""

    def __init__(self, *, callobj: Any, **keys: Any) -> None:
        super().__init__(**keys)
        self._ask = callobj

    def runtest(self) -> None:
        """Asks the rules, and fails if they say something else than they should."""
        result = self._ask()
        if not result.passed:
            raise _Unexpected(f"{result.problem}\n{result.explanation}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What was expected, and what the rules say; a failure of our own with its trace."""
        if isinstance(excinfo.value, _Unexpected):
            return f"{self.path}: {self.name}\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """File and name, for reports."""
        return self.path, None, f"policy: {self.name}"


class _Unexpected(Exception):
    """A policy says something else than its test."""
