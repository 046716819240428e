"""Every test that a text names exists, every Guarantee names one, every relative link leads somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = re.compile(r"\b(tests/[\w./*-]+?\.py)(?:::\s*(\w+(?:::\w+)*))?|`::(\w+(?:::\w+)*)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
GUARANTEE = re.compile(r"^\s*\**Guarantee\**:", re.MULTILINE)


def markdown() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def docstrings(source: str) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


def functions_in(path: Path) -> set[str]:
    """``name`` or ``Class::name`` of every test function of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):  # a state machine's TestCase
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef)
            }
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def references(text: str) -> Iterator[tuple[str, str]]:
    """Path and test of ``tests/path.py``, ``tests/path.py::name`` and, in the same file, `::name`."""
    path = ""
    for match in REFERENCE.finditer(text):
        path = match[1] or path
        yield path, match[2] or match[3] or ""


def dangling_references(text: str, root: Path) -> Iterator[str]:
    """References that lead nowhere; a path may hold ``*``, a name may not."""
    for path, name in references(text):
        files = list(root.glob(path)) if path else []
        if not files or (name and not any(name in functions_in(file) for file in files)):
            yield f"{path}::{name}" if name else path


def unnamed_guarantees(text: str) -> Iterator[str]:
    """A docstring that promises something without naming the test that checks it."""
    if GUARANTEE.search(text) and not any(name for _, name in references(text)):
        yield text.splitlines()[0]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ +(.+?) *$", re.sub(r"(?ms)^```.*?^```", "", text), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def broken_links(page: Path) -> Iterator[str]:
    for match in LINK.finditer(CODE.sub("", page.read_text("utf-8"))):
        target, _, anchor = match[1].partition("#")
        if ":" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            yield match[1]


@pytest.mark.parametrize("page", markdown(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_existing_tests_and_files(page: Path) -> None:
    found = [*dangling_references(page.read_text("utf-8"), ROOT), *broken_links(page)]
    assert not found, "\n".join(found)


def test_docstrings_name_existing_tests() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {reference}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for text in docstrings(path.read_text("utf-8"))
        for reference in dangling_references(text, ROOT)
    ]
    assert not found, "\n".join(found)


def test_every_guarantee_names_its_test() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for text in docstrings(path.read_text("utf-8"))
        for line in unnamed_guarantees(text)
    ]
    assert not found, "\n".join(found)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "def test_one(): ...\nclass TestTwo:\n    def test_three(self): ...\ndef helper(): ...\n"
    )
    return tmp_path


def test_planted_dangling_references_are_found(project: Path) -> None:
    good = "tests/test_a.py tests/test_*.py tests/test_a.py::test_one tests/test_a.py::\n  test_one"
    assert list(dangling_references(f"{good} tests/test_a.py::TestTwo::test_three", project)) == []
    assert list(dangling_references("`tests/test_a.py::test_one` and `::test_two`", project)) == [
        "tests/test_a.py::test_two"
    ]
    for wrong in ("tests/test_b.py", "tests/test_a.py::test_two", "tests/test_a.py::helper"):
        assert list(dangling_references(f"See {wrong}.", project)) == [wrong]


def test_a_planted_empty_guarantee_is_found() -> None:
    promise = "Adds.\n\nGuarantee:\n    Nobody learns anything, see"
    assert list(unnamed_guarantees(f"{promise} tests/test_a.py::test_one")) == []
    assert list(unnamed_guarantees(f"{promise} tests/test_a.py")) == ["Adds."]
    assert list(unnamed_guarantees("No promise here.")) == []


def test_planted_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    (tmp_path / "b.md").write_text("# One, two & `three`\n")
    page.write_text(
        "# Here\n[ok](b.md) [ok](#here) [ok](b.md#one-two--three) [ok](https://x.org/y) `[no](code)`\n"
        "[bad](c.md) ![bad](d.png) [bad](#there) [bad](b.md#four)\n"
    )
    assert list(broken_links(page)) == ["c.md", "d.png", "#there", "b.md#four"]
