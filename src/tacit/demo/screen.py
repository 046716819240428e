"""What a demonstration prints, and how it shows that it is still at work."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from tacit.show import console

__all__ = ["Screen", "Steps", "steps"]


@dataclass(slots=True)
class Screen:
    """Standard output for people; silent when the output is for a script."""

    quiet: bool
    out: Console = field(default_factory=console)

    def heading(self, text: str) -> None:
        """Begins a part."""
        if not self.quiet:
            self.out.print()
            self.out.print(Text(text, style="bold cyan"))

    def say(self, text: str) -> None:
        """A paragraph with rich markup, broken at words."""
        if not self.quiet:
            self.out.print(text, soft_wrap=False)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Short names with a sentence each."""
        grid = Table.grid(padding=(0, 2))
        for name, text in facts:
            grid.add_row(Text(name, style="bold"), Text(text))
        self.show(grid)

    def line(self, text: str) -> None:
        """One line that is never broken, so that it can be copied: a path or a command."""
        if not self.quiet:
            self.out.print(Text(text))

    def show(self, item: RenderableType) -> None:
        """A table."""
        if not self.quiet:
            self.out.print(item)


class Steps:
    """How far a long piece of work is, and its parts, of which several may be in progress.

    Args:
        parts: How many.
        bar: Where to draw, and what the whole is called; None without a terminal.
        plain: Whether to print a line where a part begins a new step.
    """

    def __init__(self, parts: int, bar: tuple[Bar, str] | None, *, plain: bool) -> None:
        self._plain = plain
        self._labels = [""] * parts
        self._shares = [0.0] * parts
        self._bar: Bar | None = None
        if bar is not None:
            self._bar, title = bar
            self._whole = self._bar.add_task(title, total=parts)
            self._tasks = [
                self._bar.add_task("", total=1.0, start=False, visible=False) for _ in range(parts)
            ]

    def update(self, part: int, share: float, label: str) -> None:
        """Part number ``part`` is at ``share``, 0 to 1, and does what ``label`` says."""
        if self._plain and label != self._labels[part] and share < 1:
            print(label, file=sys.stderr, flush=True)
        first = not self._labels[part]
        self._labels[part], self._shares[part] = label, share
        if self._bar is not None:
            task = self._tasks[part]
            if first:
                self._bar.start_task(task)
            self._bar.update(task, completed=share, description=label, visible=share < 1)
            self._bar.update(self._whole, completed=sum(self._shares))


@contextmanager
def steps(title: str, parts: int, *, quiet: bool) -> Iterator[Steps]:
    """Bars on standard error that vanish when all is done; lines without a terminal."""
    out = console(error=True)
    if quiet or not out.is_terminal:
        yield Steps(parts, None, plain=not quiet)
        return
    columns = (TextColumn("{task.description:30}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=out, transient=True) as bar:
        yield Steps(parts, (bar, title), plain=False)
