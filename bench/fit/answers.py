"""The largest batch of each setting and length, and what it costs. Free of torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, Final

from bench.analysis.setting import number
from bench.common.errors import InputError
from bench.forecast.costs import Variant
from bench.forecast.formulae import (
    CONTEXT_MIB,
    RESERVE,
    WORKSPACES_MIB,
    Formulae,
    largest_batch,
    memory_mib,
    ms_per_1k_tokens,
    total_mib,
)
from bench.plan.cell import ABOUT, Cell
from bench.plan.rows import Row
from bench.results.curves import Curve, Point

_NAMED: Final = ("gradient_checkpointing", "gradient_accumulation_steps", "lora_dropout")
"""Settings of a cell that change its memory and that its name lacks."""
_ANY: Final[dict[str, Any]] = {"batch_size": 0, "max_length": 0}
_USUAL_LENGTH: Final = 128
_LITTLE: Final = 0.1
"""The share of the memory of full fine-tuning below which a setting saves little."""
ASSUMED: Final = (
    f"assumed of the GPU: its context takes {CONTEXT_MIB:.0f} MiB, libraries {WORKSPACES_MIB:.0f} "
    f"MiB, and the allocator keeps {RESERVE:.0%} more than tensors need"
)


def label_of(cell: Cell) -> str:
    """The name of a setting, without its seed."""
    others = [
        ABOUT[name].short.format(value)
        for name in _NAMED
        if (value := getattr(cell, name)) not in (None, ABOUT[name].before)
    ]
    return ", ".join((cell.name.removesuffix(f"-s{cell.seed}"), *others))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The largest batch of a setting at a length, its memory by owner and its time, and how many
    times the batch of full fine-tuning it is, if that is known and fits. If no batch fits, it is 0,
    and memory and time are those of a single text."""

    cell: Cell
    length: int
    batch: int
    memory_mib: Mapping[str, float]
    ms_per_1k_tokens: float
    times_full: float | None

    @property
    def label(self) -> str:
        return label_of(self.cell)

    @property
    def peak_mib(self) -> float:
        return total_mib(self.memory_mib)

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.label, "length": self.length, "batch": self.batch,
            "peak_mib": self.peak_mib, "memory_mib": dict(self.memory_mib),
            "ms_per_1k_tokens": self.ms_per_1k_tokens, "times_full": self.times_full,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Memory and time of the settings of some cells in batches of any size and length, on a device
    with some threads. Times are measured ones of comparable rows, carried over; without any, those
    of a typical machine."""

    formulae: Mapping[Cell, Formulae]
    device: str
    threads: int
    rows: Sequence[Row] = ()

    def memory_mib(self, cell: Cell, batch: float, length: float) -> dict[str, float]:
        variant = Variant.of(cell)
        return memory_mib(self.formulae[cell], variant, self.device, batch, length)

    def ms(self, cell: Cell, batch: float, length: float) -> float:
        return self._factor * self._typical_ms(cell, batch, length)

    def _typical_ms(self, cell: Cell, batch: float, length: float) -> float:
        of = self.formulae[cell], Variant.of(cell), self.device, self.threads
        return ms_per_1k_tokens(*of, batch, length)

    @cached_property
    def ratios(self) -> list[float]:
        """Measured times over those of a typical machine."""
        cells = {Variant.of(cell)._replace(**_ANY): cell for cell in self.formulae}
        ratios = []
        for row in self.rows:
            cell = cells.get(Variant.of(row)._replace(**_ANY))
            ms, examples = number(row.ms_per_1k_tokens), number(row["examples_per_s"])
            if cell is not None and row.is_ok and ms and examples:
                length = 1e6 / ms / examples  # tokens of an example
                ratios.append(ms / self._typical_ms(cell, row.batch_size, length))
        return ratios

    @cached_property
    def _factor(self) -> float:
        return median(self.ratios) if self.ratios else 1.0

    def largest(self, cell: Cell, length: int, limit_mib: float) -> int:
        return largest_batch(self.formulae[cell], Variant.of(cell), self.device, length, limit_mib)

    def curves(self, cells: Sequence[Cell], batch: int, positions: int) -> list[Curve]:
        """The costs of settings by length in batches of one size, and by batch at one length; the
        first is full fine-tuning."""
        full, *_ = cells
        lengths = [*(2**power for power in range(4, 14) if 2**power < positions), positions]
        usual = min(_USUAL_LENGTH, positions)

        def saved(cell: Cell, length: int) -> float:
            own, of_full = (total_mib(self.memory_mib(c, batch, length)) for c in (cell, full))
            return 1 - own / of_full

        def point(cell: Cell, batch: int, length: int) -> Point:
            return Point(
                batch=batch, length=length, memory_mib=self.memory_mib(cell, batch, length),
                ms_per_1k_tokens=self.ms(cell, batch, length),
            )  # fmt: skip

        def under_10(cell: Cell) -> int | None:
            small = [n for n in range(lengths[0], positions + 1) if saved(cell, n) < _LITTLE]
            is_from_there = small == [*range(small[0], positions + 1)] if small else False
            return small[0] if is_from_there and small[0] > lengths[0] else None

        return [
            Curve(
                setting=label_of(cell), mode=cell.mode, layers=cell.layers, under_10=under_10(cell),
                by_length=tuple(point(cell, batch, n) for n in lengths),
                by_batch=tuple(point(cell, 2**power, usual) for power in range(10)),
            )
            for cell in cells
        ]  # fmt: skip

    def answers(
        self, cells: Iterable[Cell], lengths: Sequence[int], limit_mib: float
    ) -> list[Answer]:
        """InputError if no batch of any setting fits, with the memory that the smallest needs."""
        answers = []
        for cell in cells:
            full = next((one for one in self.formulae if _is_plain_full(one, cell)), None)
            for length in lengths:
                batch = self.largest(cell, length, limit_mib)
                of_full = 0 if full is None else self.largest(full, length, limit_mib)
                answers.append(Answer(
                    cell=cell, length=length, batch=batch,
                    memory_mib=self.memory_mib(cell, batch or 1, length),
                    ms_per_1k_tokens=self.ms(cell, batch or 1, length),
                    times_full=batch / of_full if of_full else None,
                ))  # fmt: skip
        if not any(answer.batch for answer in answers):
            least = min(answers, key=lambda answer: answer.peak_mib)
            parts = ", ".join(f"{mib:,.0f} {owner}" for owner, mib in least.memory_mib.items())
            raise InputError(
                f"--memory {limit_mib:,.0f}MiB: no batch of any setting fits; the smallest that "
                f"does is one text of {least.length} tokens in {least.label}, which takes "
                f"{least.peak_mib:,.0f}MiB ({parts})"
            )
        return answers


def _is_plain_full(one: Cell, like: Cell) -> bool:
    """Whether a cell is full fine-tuning in the precision of another, and nothing else."""
    alike = (one.amp, one.tf32) == (like.amp, like.tf32)
    return one.mode == "full" and one.unfreeze == "all" and alike and is_plain(one)


def is_plain(cell: Cell) -> bool:
    return all(getattr(cell, name) == ABOUT[name].before for name in _NAMED)


def any_size(cell: Cell, positions: int) -> Cell:
    """The cell whose formulae are asked for: those of its setting, whatever the batch."""
    return replace(cell, batch_size=1, max_length=positions, seed=0)
