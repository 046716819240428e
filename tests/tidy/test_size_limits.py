"""Functions, files, constructors and inheritance stay small; each rule is shown to bite.

The verifier in one file is exempt from the length of files alone: that it is one file, which an auditor
can read, copy and pin by one digest, is what it is for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
VERIFIER = Path(__file__).parents[2] / "verifier"
FUNCTION_LINES = 70
FILE_LINES = 600
CONSTRUCTOR_PARAMETERS = 7
INHERITANCE_DEPTH = 2

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(root: Path) -> dict[str, str]:
    """Dotted name -> text of every module below ``root``."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): (
            path.read_text("utf-8")
        )
        for path in sorted(root.rglob("*.py"))
    }


def everything() -> dict[str, str]:
    """The library and the verifier in one file."""
    return {**modules(SOURCE), **modules(VERIFIER)}


def long_files(name: str, source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield f"{name}: {lines} lines, at most {FILE_LINES}"


def long_functions(name: str, source: str) -> Iterator[str]:
    """Decorators, signature and docstring count."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            lines = (node.end_lineno or node.lineno) - first + 1
            if lines > FUNCTION_LINES:
                yield f"{name}.{node.name}: {lines} lines, at most {FUNCTION_LINES}"


def wide_constructors(name: str, source: str) -> Iterator[str]:
    """Written constructors only: a dataclass or a pydantic table is a value, not a dependency list."""
    for owner in ast.walk(ast.parse(source)):
        if not isinstance(owner, ast.ClassDef):
            continue
        for node in owner.body:
            if isinstance(node, Function) and node.name in ("__init__", "__new__"):
                arguments = node.args
                count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1
                if count > CONSTRUCTOR_PARAMETERS:
                    yield (
                        f"{name}.{owner.name}: {count} parameters, at most {CONSTRUCTOR_PARAMETERS}"
                    )


def bases(name: str, source: str) -> Iterator[tuple[str, list[str]]]:
    """Qualified name and qualified bases of every class of a module."""
    tree = ast.parse(source)
    known = {
        node.name: f"{name}.{node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            known |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            written = [
                ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
                for base in node.bases
            ]
            yield (
                f"{name}.{node.name}",
                [
                    known.get(head, head) + dot + tail
                    for head, dot, tail in (base.partition(".") for base in written)
                ],
            )


def deep_classes(sources: dict[str, str]) -> Iterator[str]:
    """Counts ancestors that are defined in these sources."""
    parents = dict(pair for name, source in sources.items() for pair in bases(name, source))

    def depth(name: str) -> int:
        return max((1 + depth(base) for base in parents[name] if base in parents), default=0)

    for name in parents:
        if depth(name) > INHERITANCE_DEPTH:
            yield f"{name}: {depth(name)} ancestors, at most {INHERITANCE_DEPTH}"


def test_files_are_short() -> None:
    found = [line for item in modules(SOURCE).items() for line in long_files(*item)]
    assert not found, "\n".join(found)


def test_functions_are_short() -> None:
    found = [line for item in everything().items() for line in long_functions(*item)]
    assert not found, "\n".join(found)


def test_constructors_are_narrow() -> None:
    found = [line for item in everything().items() for line in wide_constructors(*item)]
    assert not found, "\n".join(found)


def test_inheritance_is_shallow() -> None:
    found = list(deep_classes(everything()))
    assert not found, "\n".join(found)


def test_the_source_is_found() -> None:
    assert "tacit.errors" in modules(SOURCE)
    assert "verify" in modules(VERIFIER)


def test_a_planted_long_file_is_found() -> None:
    assert list(long_files("m", "x = 1\n" * 600)) == []
    assert list(long_files("m", "x = 1\n" * 601)) == ["m: 601 lines, at most 600"]


def test_a_planted_long_function_is_found() -> None:
    def function(lines: int, indent: str = "") -> str:
        return f"{indent}def f():\n" + f"{indent}    x = 1\n" * (lines - 1)

    assert list(long_functions("m", function(70))) == []
    assert list(long_functions("m", function(71))) == ["m.f: 71 lines, at most 70"]
    assert list(long_functions("m", "@decorated\n" + function(70))) != []
    assert list(long_functions("m", "class C:\n" + function(71, "    "))) != []


def test_a_planted_wide_constructor_is_found() -> None:
    def constructor(positional: str, keyword: str) -> str:
        return f"class C:\n    def __init__(self, {positional}, *, {keyword}):\n        pass\n"

    assert list(wide_constructors("m", constructor("a, b, c, d", "e, f, g"))) == []
    assert list(wide_constructors("m", constructor("a, b, c, d", "e, f, g, h"))) != []


def test_a_planted_deep_class_is_found() -> None:
    sources = {
        "tacit.a": "import enum\nclass A(Exception): ...\nclass B(A): ...\nclass C(B): ...\n",
        "tacit.b": "from tacit.a import C as Base\nfrom tacit import a\n",
    }
    assert list(deep_classes(sources)) == []
    for line in ("class D(Base): ...", "class D(a.C): ...", "class D(Base[int]): ..."):
        planted = {**sources, "tacit.b": sources["tacit.b"] + line}
        assert list(deep_classes(planted)) == ["tacit.b.D: 3 ancestors, at most 2"]
