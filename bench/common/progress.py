"""Notes on stderr, and the progress of a command that works through a list."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from bench.common.messages import echo, printable

ShowStep = Callable[[int, str], None]  # called as a step begins, with its number and name


class Console(console.Console):
    """A terminal for texts that may be anybody's: it shows their escapes instead of obeying them,
    and takes nothing in them for markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, *arguments: Any, **options: Any) -> Iterator[Segment]:
        for text, style, control in super().render(*arguments, **options):
            yield Segment(text if control else printable(text), style, control)


@contextmanager
def progress_bar(total: int) -> Iterator[ShowStep]:
    """A function to call as each item begins, with the number of items done and the item's name. It
    draws a bar on a terminal, and writes a line elsewhere."""
    terminal = Console(stderr=True)
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=terminal, transient=True, auto_refresh=False, disable=not terminal.is_terminal,
    ) as bar:  # fmt: skip
        task, begun = bar.add_task("", total=total), time.monotonic()

        def show(done: int, text: str) -> None:
            if not terminal.is_terminal:
                minutes = (time.monotonic() - begun) / 60
                echo(f"[{done + 1}/{total}, {minutes:.0f} min] {text}", err=True)
            bar.update(task, completed=done, description=text, refresh=True)

        yield show


def note_to_stderr(*notes: str) -> None:
    for note in notes:
        echo(f"note: {note}", err=True)
