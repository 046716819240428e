"""Every command and snippet of the README, the tutorial and the reference runs, in order.

A page's fenced blocks share one temporary folder. ``bash`` and ``python`` blocks are executed; an HTML
comment right above a block says what else is to be done with it:

    <!-- test: skip WHY -->       set-up of a clone: only make targets that exist, git, cd, activation
    <!-- test: exit N -->         the block's last command must exit with N
    <!-- test: file PATH -->      the reader saves the block as PATH
    <!-- test: excerpt PATH -->   the block's lines stand in PATH
    <!-- test: output -->         the last block printed these lines, in order; ... stands for anything

``tacit`` commands run in this process through the entry point, which saves importing everything once
a line; all other lines go to bash.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *("README.md", "docs/tutorial.md", "docs/reference/errors.md"),
    *("docs/how-to/connect-a-hospital-database.md", "docs/how-to/write-and-test-a-policy.md"),
    *("docs/how-to/audit-a-run.md", "docs/how-to/run-a-witness.md"),
    *("docs/how-to/attack-a-job.md", "docs/how-to/run-the-engine-as-a-service.md"),
]  # test_three_hospitals.py follows the page that it is named after, with a machine for each reader
HELD = {"docs/how-to/audit-a-run.md": ROOT / "verifier" / "verify.py"}
"""What the reader of a page holds before the first line."""

TEXTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- test: (?P<kind>[a-z]+) ?(?P<argument>[^\n]*?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SHELL = re.compile(r"[|&;<>$`]")
SETUP = re.compile(r"make [a-z-]+|git clone \S+.*|cd \S+|\. \.venv/bin/activate")


@dataclass(frozen=True)
class Block:
    """One fenced block: what the test does with it, and its content."""

    kind: str
    argument: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page; one that nothing would test is an error."""
    for match in BLOCK.finditer(text):
        kind, language = match["kind"] or "", match["language"]
        line = 1 + text.count("\n", 0, match.start("language"))
        allowed = {"file", "excerpt", "output"} | (
            {"skip", "exit"} if language == "bash" else set()
        )
        if kind not in allowed and not (kind == "" and language in ("bash", "python")):
            raise AssertionError(f"line {line}: nothing tests this '{language}' block")
        yield Block(kind or language, match["argument"] or "", match["text"], line)


@dataclass
class Reader:
    """Somebody who follows a page to the letter.

    Args:
        command: Runs one ``tacit`` command and returns its exit code.
    """

    command: Callable[[list[str]], int]
    printed: str = ""
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "__main__"})

    def follow(self, block: Block) -> None:
        """Does what one block says; an assertion fails if it does not work out."""
        match block.kind:
            case "skip":
                check_setup(block.text)
            case "file":
                Path(block.argument).write_text(block.text, "utf-8")
            case "excerpt":
                assert block.text in Path(block.argument).read_text("utf-8"), block.text
            case "output":
                assert shows(self.printed, block.text), self.printed
            case "python":
                self.printed = self._capture(lambda: exec(block.text, self.names))
            case _:
                self._bash(block.text, int(block.argument or 0))

    def _capture(self, action: Callable[[], object]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            action()
        return printed.getvalue()

    def _bash(self, text: str, expected: int) -> None:
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
        codes: list[int] = []
        self.printed = self._capture(lambda: codes.extend(map(self._line, lines)))
        assert codes == [0] * (len(lines) - 1) + [expected], self.printed

    def _line(self, line: str) -> int:
        words = shlex.split(line, comments=True)
        if words[0] == "cd":
            os.chdir(words[1])
            return 0
        if words[0] == "tacit":
            bare = re.sub(r"'[^']*'", "", line)  # a shell takes what is quoted so as it stands
            assert not SHELL.search(bare), f"this test runs tacit without a shell: {line}"
            return self.command(words[1:])
        done = subprocess.run(
            ["bash", "-c", line], check=False, capture_output=True, text=True, timeout=30
        )
        print(done.stdout + done.stderr)
        return done.returncode


def check_setup(text: str) -> None:
    """Lines that only a fresh clone can run; a target that they make must exist."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for line in text.splitlines():
        command = line.partition("#")[0].strip()
        assert SETUP.fullmatch(command), f"not a set-up line: {line}"
        assert not command.startswith("make ") or command.removeprefix("make ") in targets, line


def shows(printed: str, expected: str) -> bool:
    """Whether the expected lines were printed, in order; spaces and table lines do not count."""
    rest = _words(printed)
    for line in _words(expected).splitlines():
        pattern = ".*?".join(re.escape(part.strip()) for part in line.split("..."))
        found = re.search(pattern, rest)
        if found is None:
            return False
        rest = rest[found.end() :]
    return True


def _words(text: str) -> str:
    """Each line without rules of tables, its words separated by one space; empty lines left out."""
    plain = (" ".join(re.sub(r"[\u2500-\u257f]", " ", line).split()) for line in text.splitlines())
    return "\n".join(line for line in plain if line)


def run_tacit(arguments: list[str]) -> int:
    """The ``tacit`` command in this process."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="tacit")
    code: int = script.load()(arguments)
    return code


@pytest.mark.parametrize("page", PAGES)
def test_a_reader_gets_through(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    if page in HELD:
        shutil.copy(HELD[page], tmp_path)
    reader = Reader(run_tacit)
    for block in blocks((ROOT / page).read_text("utf-8")):
        try:
            reader.follow(block)
        except Exception as error:
            raise AssertionError(f"{page}, line {block.line}: {error}") from error


def unknown_commands(text: str) -> Iterator[str]:
    """Commands in running text that do not exist: a make target, a tacit command or its option."""
    make = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for code in re.findall(
        r"`((?:make|tacit) [a-z][^`\n]*)`", re.sub(r"(?ms)^```.*?^```", "", text)
    ):
        program, name, *rest = code.split()
        known = make if program == "make" else [*tacit_commands()]
        flags = {word for word in rest if word.startswith("--")}
        if name not in known or (program == "tacit" and not flags <= tacit_commands()[name]):
            yield code


@functools.cache
def tacit_commands() -> dict[str, set[str]]:
    """Every command of ``tacit`` with its options."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    known: dict[str, set[str]] = {}
    for part in re.split(r"^## tacit ", page, flags=re.MULTILINE)[1:]:
        known.setdefault(part.split()[0], set()).update(re.findall(r"`(--[a-z]+)", part))
    return known


def test_every_error_code_that_a_page_explains_is_raised_somewhere() -> None:
    """The table of codes of the service's page: no code that the program does not know."""
    page = (ROOT / "docs/how-to/run-the-engine-as-a-service.md").read_text("utf-8")
    table = page.partition("| code | what happened")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    codes = {code for row in rows for code in re.findall(r"`([a-z]+\.[a-z-]+)`", row)}
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert len(codes) >= 30
    assert {code for code in codes if f'"{code}"' not in source} == set()


FENCE = "`" * 3


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_running_text_exist(page: Path) -> None:
    assert list(unknown_commands(page.read_text("utf-8"))) == []


def test_a_planted_unknown_command_is_found() -> None:
    good = "`make demo`, `tacit verify`, `tacit run job.toml --out DIR`, `tacit COMMAND`"
    bad = ["make nothing-like-it", "tacit conquer", "tacit verify --out DIR"]
    assert list(unknown_commands(" ".join([good, *(f"`{code}`" for code in bad)]))) == bad


def follow(page: str, *, code: int = 0) -> None:
    reader = Reader(lambda words: print(*words) or code)
    for block in blocks(page.replace("'''", FENCE)):
        reader.follow(block)


@pytest.mark.parametrize(
    "page",
    [
        "'''bash\nfalse\n'''",
        "'''bash\nfalse\ntrue\n'''",
        "'''bash\ntacit check\n'''",
        "<!-- test: exit 1 -->\n'''bash\ntrue\n'''",
        "'''python\n1 / 0\n'''",
        "'''toml\nversion = 1\n'''",
        "'''text\nsomething\n'''",
        "<!-- test: skip why -->\n'''bash\nmake nothing-like-it\n'''",
        "<!-- test: skip why -->\n'''bash\ntacit run\n'''",
        "<!-- test: file a.txt -->\n'''text\none\n'''\n<!-- test: excerpt a.txt -->\n'''text\ntwo\n'''",
        "'''bash\necho one\n'''\n<!-- test: output -->\n'''text\ntwo\n'''",
        "'''bash\ntacit a | cat\n'''",
    ],
)
def test_a_planted_mistake_is_found(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        follow(page, code=3)


def test_what_a_page_may_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    follow(
        "<!-- test: skip a fresh clone -->\n'''bash\nmake test  # why\n. .venv/bin/activate\n'''\n"
        "<!-- test: file a.txt -->\n'''text\none\ntwo\n'''\n"
        "<!-- test: excerpt a.txt -->\n'''toml\ntwo\n'''\n"
        "<!-- test: exit 3 -->\n'''bash\ncat a.txt | head -n 1\ntacit says 12.5 things\n'''\n"
        "<!-- test: output -->\n'''text\none\nsays ... things\n'''\n"
        "'''python\nx = 1\n'''\n'''python\nprint(x + 1)\n'''\n<!-- test: output -->\n'''text\n2\n'''\n",
        code=3,
    )


def test_tables_and_line_breaks_do_not_count() -> None:
    printed = "┏━━━┓\n┃site ┃ answer  ┃\n│west │ refuses │\nerror: no\n"
    assert shows(printed, "site   answer\n...\nwest  refuses")
    assert not shows(printed, "west refuses\nsite answer")
