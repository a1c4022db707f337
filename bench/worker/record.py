"""Files that a cell writes beside its result: steps, epochs, timing batches, phases, machine."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.results.protocol import EPOCHS, MACHINE, PANEL, PHASES, STEPS
from bench.worker.probes.panel import Panel
from bench.worker.probes.phases import Phases
from bench.worker.probes.steps import Step


@dataclass
class Epoch:
    """Losses and scores of an epoch, on its training batches and then on dev.

    `parts` has the dev scores of a task's parts, if it has any, by the names of their columns.
    """

    train_loss: float
    train_score: float | None
    dev_loss: float
    dev_score: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)


def write_steps(folder: Path, steps: Sequence[Step], losses: Sequence[float]) -> None:
    """Write every training step: ms, tokens without and with padding, examples and loss."""
    _write_csv(
        folder / STEPS,
        ("step", "ms", "tokens", "padded", "examples", "loss"),
        [
            (number, f"{step.ms:.4f}", step.tokens, step.padded, step.examples, f"{loss:.9g}")
            for number, (step, loss) in enumerate(zip(steps, losses, strict=True), start=1)
        ],
    )


def write_epochs(folder: Path, epochs: Sequence[Epoch]) -> None:
    """Write loss and score of every epoch, on its training batches and then on dev."""
    _write_csv(
        folder / EPOCHS,
        ("epoch", "train_loss", "train_score", "dev_loss", "dev_score", *epochs[0].parts),
        [
            (
                number,
                *(epoch.train_loss, epoch.train_score, epoch.dev_loss, epoch.dev_score),
                *epoch.parts.values(),
            )
            for number, epoch in enumerate(epochs, start=1)
        ],
    )


def write_panel(folder: Path, panel: Panel) -> None:
    """Write every step on the timing batches: its pass and batch, and whether its time counts."""
    _write_csv(
        folder / PANEL,
        ("pass", "batch", "ms", "tokens", "examples", "counts", "settled"),
        [
            (
                number,
                batch,
                f"{ms:.4f}",
                panel.tokens[batch],
                panel.examples[batch],
                int(number >= panel.warm),
                int(panel.settled),
            )
            for number, times in enumerate(panel.passes)
            for batch, ms in enumerate(times)
        ],
    )


def write_phases(folder: Path, phases: Phases) -> None:
    """Write the seconds of each phase, and the peak memory of the process in it."""
    _write_csv(
        folder / PHASES,
        ("phase", "seconds", "peak_rss_mib", "peak_anon_mib"),
        [
            (name, f"{seconds:.4f}", phases.peaks[name].rss_mib, phases.peaks[name].anon_mib)
            for name, seconds in phases.seconds.items()
        ],
    )


def write_machine(folder: Path, report: dict[str, Any]) -> None:
    """Write, as JSON, what the machine did during the timed steps."""
    text = json.dumps(report, indent=2) + "\n"
    (folder / MACHINE).write_text(text, encoding="utf-8")


def _write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
