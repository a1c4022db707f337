"""What settings cost in batches of any size and length, and the largest batch that fits."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.analysis.setting import number
from bench.common.errors import InputError
from bench.forecast.costs import Formulae, Variant
from bench.forecast.forecast import (
    WITHIN,
    apply,
    load_features,
    memory_prior,
    peak_features,
    time_prior,
)
from bench.plan.cell import ABOUT, Cell
from bench.plan.gridfile import USUAL_BATCH
from bench.plan.rows import Row
from bench.report.text import sentences
from bench.results.curves import Curves, Point

VERIFIED: Final = Path(__file__).with_name("verified.json")
"""Entries of `bench.fit --verify --json`, on CPUs, written by tests/experiments/fit.py."""
_SPARE: Final = 0.2  # of its forecast peak, what a promised batch leaves free on a CPU
LARGEST: Final = 65_536  # the most examples that a batch of a grid may have
_CONTEXT_MIB: Final = 550.0  # of a process on a GPU: docs/measuring.md has 300 to 550
_WORKSPACES_MIB: Final = 32.0  # of a GPU's libraries: 8 for a handle and stream, 32 on Hopper
_RESERVE: Final = 0.1  # of the tensors' memory, which torch's allocator on a GPU holds beyond it
_NAMED: Final = ("gradient_checkpointing", "gradient_accumulation_steps")
"""Settings that change the memory of a cell, and that its name lacks."""
_ANY: Final[dict[str, Any]] = {"batch_size": 1, "max_length": 1}
_LENGTH: Final = 128


def label_of(cell: Cell) -> str:
    """The name of a setting, without its seed."""
    others = [ABOUT[n].short.format(getattr(cell, n)) for n in _NAMED if not _is_usual(cell, n)]
    return ", ".join((cell.name.removesuffix(f"-s{cell.seed}"), *others))


def remarks(points: Sequence[Point]) -> list[str]:
    """What batches that are not bounded by memory alone mean."""
    return sentences("fit_remarks", batches={point.batch for point in points}, most=LARGEST)


def is_plain(cell: Cell) -> bool:
    return all(_is_usual(cell, name) for name in _NAMED)


def _is_usual(cell: Cell, name: str) -> bool:
    return bool(getattr(cell, name) == ABOUT[name].before)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of settings, each a cell of whatever size, on a device with some threads. Times are
    those that comparable rows measured, carried over; without any, of a typical machine. Memory
    has the coefficients fitted to so many `learned` settings, or those of the prior."""

    formulae: Mapping[Cell, Formulae]
    device: str
    threads: int
    rows: Sequence[Row] = ()
    coefficients: Sequence[float] = ()
    learned: int = 0

    def memory_mib(self, cell: Cell, batch: float, length: float) -> dict[str, float]:
        """The parts of a worker's peak, whose sum it is: its resident set on a CPU, and what it
        holds on a GPU. The rest are temporary tensors and, on a CPU, what its allocator keeps."""
        of = self.formulae[cell]
        tensors, lasting = of.tensors_mib(batch, length), of.weights_mib + of.optimizer_mib
        features = peak_features(Variant.of(cell), lasting, sum(tensors))
        peak = max(0.0, apply(self.coefficients or memory_prior(self.device).values, features))
        sizes = of.weights_mib, tensors[0], of.optimizer_mib, tensors[1]
        owners = ("weights", "gradients", "optimizer", "activations")
        share = min(1.0, peak / sum(sizes))  # of what is counted, where less was measured
        owned = {name: share * mib for name, mib in zip(owners, sizes, strict=True)}
        owned["rest"] = max(0.0, peak - sum(sizes))
        if self.device == "cpu":
            return {"libraries": of.imports_mib, **owned}
        others = _CONTEXT_MIB, _WORKSPACES_MIB, _RESERVE * peak
        return owned | dict(zip(("context", "workspaces", "reserve"), others, strict=True))

    def _peak_mib(self, cell: Cell, batch: float, length: float) -> float:
        return sum(self.memory_mib(cell, batch, length).values())

    def _typical_ms(self, cell: Cell, batch: float, length: float) -> float:
        features = load_features(Variant.of(cell), self.formulae[cell].load(batch, length))
        rates = time_prior(self.device, self.threads).values[1:]
        return 1e6 * apply(rates, features) / (batch * length)

    @cached_property
    def _ratios(self) -> list[float]:
        """Measured times over typical ones."""
        cells = {Variant.of(cell)._replace(**_ANY): cell for cell in self.formulae}
        ratios = []
        for row in self.rows:
            cell = cells.get(Variant.of(row)._replace(**_ANY))
            ms, examples = number(row.ms_per_1k_tokens), number(row["examples_per_s"])
            if cell is not None and row.is_ok and ms and examples:
                length = 1e6 / ms / examples  # tokens of an example
                ratios.append(ms / self._typical_ms(cell, row.batch_size, length))
        return ratios

    def point(self, cell: Cell, batch: int, length: int, of_full: int = 0) -> Point:
        """The costs of a setting; `of_full` is the batch of full fine-tuning, 0: not known."""
        return Point(
            setting=label_of(cell), mode=cell.mode, layers=cell.layers, length=length, batch=batch,
            memory_mib=self.memory_mib(cell, batch or 1, length),
            ms_per_1k_tokens=median(self._ratios or [1.0]) * self._typical_ms(
                cell, batch or 1, length
            ),
            times_full=batch / of_full if of_full else None,
        )  # fmt: skip

    def largest(self, cell: Cell, length: int, limit_mib: float) -> int:
        """The largest batch whose peak is within a limit with some to spare; 0 if none is."""
        spare = _SPARE if self.device == "cpu" else 0.0  # a GPU's reserve is counted
        sizes, most_mib = range(1, LARGEST + 1), limit_mib / (1 + spare)
        return bisect_right(sizes, most_mib, key=lambda batch: self._peak_mib(cell, batch, length))

    def answers(
        self, cells: Sequence[Cell], lengths: Sequence[int], limit_mib: float
    ) -> list[tuple[Cell, Point]]:
        """What fits at the largest batch of each setting, or a single text as batch 0. InputError
        if no batch of any fits, with what the smallest takes."""
        answers = []
        for length in lengths:
            for cell in cells:
                plain = (c for c in self.formulae if is_plain(c) and c.amp == cell.amp)
                full = next((c for c in plain if c.mode == "full"), None)
                of_full = 0 if full is None else self.largest(full, length, limit_mib)
                batch = self.largest(cell, length, limit_mib)
                answers.append((cell, self.point(cell, batch, length, of_full)))
        if not answers:
            raise InputError("what fits can't be forecast: the chosen settings can't be counted")
        if not any(point.batch for _, point in answers):
            least = min((point for _, point in answers), key=lambda point: point.peak_mib)
            parts = ", ".join(f"{mib:,.0f} {owner}" for owner, mib in least.memory_mib.items())
            raise InputError(
                f"--memory {limit_mib:,.0f}MiB: even one text of {least.length} tokens in "
                f"{least.setting} takes {least.peak_mib:,.0f} MiB ({parts})"
                f"{f', and {_SPARE:.0%} to spare' if self.device == 'cpu' else ''}"
            )
        return answers

    def curves(self, cells: Sequence[Cell], model: str, positions: int) -> Curves:
        """Of settings, the first of which is full fine-tuning."""
        batch, usual = USUAL_BATCH, min(_LENGTH, positions)
        lengths = [*(2**power for power in range(4, 14) if 2**power < positions), positions]
        sizes = {*((batch, n) for n in lengths), *((2**power, usual) for power in range(10))}
        under_10 = {}
        for cell in cells[1:]:
            by_length = range(positions, lengths[0] - 1, -1)
            share = (self._peak_mib(cell, batch, n) / self._peak_mib(cells[0], batch, n)
                     for n in by_length)  # fmt: skip
            enough = next((n for n, s in zip(by_length, share, strict=True) if s <= 0.9), None)
            if enough is not None and enough < positions:
                under_10[label_of(cell)] = enough + 1
        return Curves(
            model=model, batch=batch, length=usual, under_10=under_10, notes=tuple(self.notes),
            points=tuple(self.point(cell, *size) for cell in cells for size in sorted(sizes)),
        )  # fmt: skip

    @property
    def notes(self) -> list[str]:
        """What the answers are based on, with the error of forecasts that were verified."""
        pairs = [(one["promised"], one["fits"]) for one in json.loads(VERIFIED.read_text("utf-8"))]
        return sentences(
            "fit", costs=self, runs=len(self._ratios), pairs=pairs, within=WITHIN, spare=_SPARE,
            kept=sum(promised <= fits for promised, fits in pairs), context=_CONTEXT_MIB,
            close=sum(abs(promised - fits) <= max(1, WITHIN * fits) for promised, fits in pairs),
            workspaces=_WORKSPACES_MIB, reserve=_RESERVE,
        )  # fmt: skip
