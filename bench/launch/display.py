"""Shows the progress of a run on stderr: live on a terminal, elsewhere a line for each cell and, at
most once a minute, one on what runs. It draws only when something has happened, so that the parent
process can sleep. Threads may share it.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from threading import RLock
from typing import Any, Final, TextIO

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from bench.common.messages import as_called, one_line, printable
from bench.common.progress import Console
from bench.plan.rows import Row, repeat_suffix

_COLOURS: Final = {"ok": "green", "skipped": "dim", "interrupted": "yellow", "invalid": "magenta"}
_FAILED: Final = "red"
_MOST_SHOWN: Final = 16  # running cells that are shown by name
_QUIET_S: Final = 60.0  # seconds without a line after which a log gets one on what runs


@dataclass
class _Running:
    """A cell that runs, or a stage before cells do."""

    name: str
    begun: float
    expected_s: float | None = None
    phase: str = ""
    step: dict[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> list[str]:
        parts = [self.name, *([one_line(self.phase)[:160]] if self.phase else [])]
        if self.step:
            total = f"/{self.step['steps']:,}" if "steps" in self.step else ""
            parts.append(f"step {self.step['step']:,}{total}")
            loss = self.step.get("loss")
            if isinstance(loss, float) and math.isfinite(loss):
                parts.append(f"loss {loss:.4f}")
        return parts


class Display:
    """The display of a run or a round of `total` planned cells, of which `done` need not run."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        title: str = "",
        noun: str = "cells",
    ) -> None:
        self._total = total
        self._head = title and f"{title}: ", noun
        self._done = done
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._begun = clock()
        self._counts: Counter[str] = Counter()
        self._wall_s: list[float] = []
        self._running: dict[str, _Running] = {}
        self._rest_s: float | None = None
        self._limit_s = math.inf
        self._at_once = 1
        self._wrote_at = -math.inf
        self._waits_for = ""
        self._lock = RLock()
        self._console: Console | None = None
        self._live: Live | None = None

    def __enter__(self) -> "Display":
        if self._stream.isatty() and not Console(file=self._stream).is_dumb_terminal:
            self._console = Console(file=self._stream)
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with suppress(OSError, ValueError):
                self._live.stop()

    def stage(self, name: str, at_once: int = 1) -> None:
        """Show what is done before cells begin, or while so many run elsewhere."""
        with self._lock:
            self._running = {"": _Running(name, self._clock())}
            self._at_once = at_once
            self._draw()

    def start(
        self,
        cell_name: str,
        cell_s: float | None = None,
        rest_s: float | None = None,
        limit_s: float = math.inf,
    ) -> None:
        """Show that a cell begins, with its expected seconds and those of all later cells, if
        known, and the seconds in which others may begin."""
        with self._lock:
            self._rest_s, self._limit_s = rest_s, limit_s
            self._running.pop("", None)
            self._running[cell_name] = _Running(cell_name, self._clock(), cell_s, "start")
            self._draw(is_news=len(self._running) == 1 and not self._counts)

    def progress(self, message: dict[str, Any], name: str = "", *, is_news: bool = False) -> None:
        """Show a message of the worker of a running cell or, without its name, of the cell or stage
        that began last; invalid parts are ignored."""
        with self._lock:
            running = self._running.get(name or next(reversed(self._running), ""))
            if running is None:
                return
            phase = message.get("phase")
            if isinstance(phase, str):
                running.phase, running.step = phase, {}
            if _is_count(message.get("step")) and _is_count(message.get("steps", 0)):
                running.step = message
            self._draw(is_news=is_news)

    def waiting(self, text: str, name: str = "") -> None:
        self.progress({"phase": text}, name, is_news=text != self._waits_for)
        self._waits_for = text

    def finish(self, row: Row, prefix: str = "") -> None:
        status = row.status or "not run"
        name = prefix + row.name + repeat_suffix(row.repeat)
        width = len(str(self._total))
        with self._lock:
            self._done += 1
            self._counts[status] += 1
            if row.wall_s is not None:
                self._wall_s.append(row.wall_s)
            self._running.pop(name, None)
            self._say(
                f"[{self._done:>{width}}/{self._total}] {name}  ",
                (status, _COLOURS.get(status, _FAILED)),
                "".join(f"  {part}" for part in _figures(row)),
            )
            self._draw()

    def note(self, text: str) -> None:
        with self._lock:
            self._say(" ".join(text.split()))

    def _say(self, *parts: str | tuple[str, str]) -> None:
        styled = [(part, "") if isinstance(part, str) else part for part in parts]
        text = Text.assemble(*((printable(as_called(words)), style) for words, style in styled))
        self._wrote_at = self._clock()
        with suppress(OSError, ValueError):  # a closed terminal does not stop the cells
            if self._console is not None:
                self._console.print(text, soft_wrap=True)
            else:
                self._stream.write(f"{text.plain}\n")
                self._stream.flush()

    def _draw(self, *, is_news: bool = False) -> None:
        """Show what runs: in a log only news, or after a minute without a line."""
        if self._live is not None:
            with suppress(OSError, ValueError):
                head, *running = self._lines()
                bar = Padding(ProgressBar(self._total, self._done), 0)
                self._live.update(Group(head, bar, *running), refresh=True)
        elif self._running and (is_news or self._clock() - self._wrote_at >= _QUIET_S):
            self._say("; ".join(line.plain for line in self._lines()))

    def _lines(self) -> list[Text]:
        """How far the run is, and a line for each cell that runs."""
        now, (title, noun) = self._clock(), self._head
        counted = f"{title}{self._done}/{self._total} {noun}"
        head = Text.assemble((counted, "bold"), no_wrap=True)
        for status, count in self._counts.items():
            head.append(f"  {count} {status}", _COLOURS.get(status, _FAILED))
        head.append(f"  {clock_time(now - self._begun)} gone")
        left = self._left_s(now)
        if left is not None:
            head.append(f", about {clock_time(left)} left")
        lines = [head]
        for running in islice(self._running.values(), _MOST_SHOWN):
            parts = running.parts
            if running.phase:
                parts.append(clock_time(now - running.begun))
            lines.append(Text("  ".join(parts), no_wrap=True, overflow="ellipsis"))
        return lines

    def _left_s(self, now: float) -> float | None:
        """The expected seconds until all cells are done, if as many run at a time as do now.
        Without a forecast, later cells are expected to take the mean time of this run's cells; None
        before the first has ended."""
        running = self._running.values()
        at_once = max(1, len(running), self._at_once)
        if self._rest_s is not None:
            left = [max(0.0, (cell.expected_s or 0.0) - (now - cell.begun)) for cell in running]
            return min(self._rest_s / at_once, self._limit_s) + sum(left) / at_once
        if not self._wall_s:
            return None
        mean = sum(self._wall_s) / len(self._wall_s)
        gone = sum(min(now - cell.begun, mean) for cell in running)
        return (mean * (self._total - self._done) - gone) / at_once


def clock_time(seconds: float) -> str:
    """Minutes and seconds, and hours if there are any: `0:07`, `1:02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _figures(row: Row) -> list[str]:
    """The figures of a cell that has ended, or the reason why it has none."""
    figures = []
    if row.is_candidate:
        figures.append(f"rate {row['learning_rate'] or row['learning_rate_head']:g}")
    if row.wall_s is not None:
        figures.append(f"{row['wall_s']:.1f} s")
    if row.status != "ok":
        return [*figures, one_line(row.message or "")]
    if row.dev_score is not None:
        where = "held-out" if row.is_trial else "dev"
        figures.append(f"{where} {row['dev_metric']} {row['dev_score']:.3f}")
    memory = row.peak_cuda_allocated_mib
    memory = row.peak_rss_mib if memory is None else memory
    if isinstance(memory, float):
        figures.append(f"{memory:,.0f} MiB")
    if row.flags:
        figures.append(f"({row['flags']})")
    return figures


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
