"""Notes on stderr, and the progress of a command that works through a list."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.common.messages import echo, printable

ShowStep = Callable[[int, str], None]  # called as a step begins, with its number and name


@contextmanager
def progress_bar(total: int) -> Iterator[ShowStep]:
    """A function to call as each item begins, with the number of items done and the item's name. It
    draws a bar on a terminal, and writes a line elsewhere."""
    console = Console(stderr=True)
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console, transient=True, auto_refresh=False, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task, begun = bar.add_task("", total=total), time.monotonic()

        def show(done: int, text: str) -> None:
            if not console.is_terminal:
                minutes = (time.monotonic() - begun) / 60
                echo(f"[{done + 1}/{total}, {minutes:.0f} min] {text}", err=True)
            bar.update(task, completed=done, description=printable(text), refresh=True)

        yield show


def note_to_stderr(*notes: str) -> None:
    for note in notes:
        echo(f"note: {note}", err=True)
