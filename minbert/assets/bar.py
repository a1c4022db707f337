"""A progress bar for a download: on stderr if that is a terminal; otherwise one line."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the bytes done and their total; before its first call nothing is
    shown."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def show(done: int, total: int) -> None:
            if not bar.task_ids:
                bar.add_task(f"fetching {name}", total=total)
                if not console.is_terminal:
                    sys.stderr.write(f"fetching {name} ({total / 1e6:.1f} MB)\n")
            bar.update(bar.task_ids[0], completed=done, total=total)

        yield show
