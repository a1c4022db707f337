"""Rows of a comparison, one for each setting and side, from the answers of its processes. Pure."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.peers.curves import compare
from bench.peers.limit import Shape, gflop, limit_ms, mean_gflops, required, work_of
from bench.peers.names import COMPILED, OURS
from bench.peers.ratios import Replay, as_replay, ratio_of, time_of
from bench.plan.cell import Cell
from bench.stats.intervals import Interval
from minbert.model.config import BertConfig

Row = dict[str, Any]

STEP_COLUMNS: Final = (
    *("setting", "mode", "rank", "layers", "amp", "side", "status", "message", "flags", "rounds"),
    *("ms_per_1k_tokens", "ms_per_1k_tokens_ci_low", "ms_per_1k_tokens_ci_high"),
    *("time_ratio", "time_ratio_ci_low", "time_ratio_ci_high"),
    *("peak_above_imports_mib", "memory_ratio", "peak_anon_above_imports_mib", "imports_mib"),
    *("peak_cuda_allocated_mib", "activations_mib", "startup_s", "compile_s"),
    *("panel_tokens", "panel_padded", "epoch_tokens", "epoch_padded"),
    *("gflop_per_1k_tokens", "limit_gflops", "limit_ms_per_1k_tokens", "limit_share"),
    *("loss_steps", "loss_difference", "agrees"),
)
"""Columns of a comparison of steps. A ratio is ours over the row's side; rows of ours have none."""

WHOLE_COLUMNS: Final = (
    *("setting", "mode", "rank", "layers", "amp", "side", "status", "message", "rounds", "steps"),
    *("seconds", "seconds_ci_low", "seconds_ci_high"),
    *("time_ratio", "time_ratio_ci_low", "time_ratio_ci_high"),
    *("peak_rss_mib", "memory_ratio", "dev_metric", "dev_score"),
)
"""Columns of a comparison of whole cells."""


NOT_COMPILED: Final = "not compiled"
"""The status of a baseline that is left out since compiling takes too long; not a failure."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process of a side: its round, status and answer.

    Attributes:
        round: the id shared by the processes that alternated.
        scored_s: seconds from launch to the dev score, for a whole cell.
    """

    cell: Cell
    side: str
    round: str
    status: str
    message: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)
    scored_s: float | None = None
    peak_rss_mib: float | None = None


def missing_rounds(attempts: Sequence[Attempt], cell: Cell, baseline: str, rounds: int) -> int:
    """The rounds that a baseline still has to run with ours; 0 if it was not compiled in time."""
    own = _of(attempts, cell, baseline)
    if any(attempt.status == NOT_COMPILED for attempt in own):
        return 0
    ours = {a.round for a in _of(attempts, cell, OURS) if a.status == "ok"}
    done = len(ours & {attempt.round for attempt in own if attempt.status == "ok"})
    return max(0, rounds - done)


def setting_of(cell: Cell) -> str:
    """A setting's short name, such as `lora-r8-all-lin-only-bf16`."""
    return cell.name.removesuffix(f"-s{cell.seed}")


def step_rows(
    attempts: Sequence[Attempt], config: BertConfig, num_outputs: int, new_pooler: bool
) -> list[Row]:
    """Rows with `STEP_COLUMNS`, settings and sides in the order of their first attempts."""
    speeds = fastest(attempts)
    rows = []
    for cell, side, own in _grouped(attempts):
        row = _new_row(STEP_COLUMNS, cell, side, own)
        ok = [attempt for attempt in own if attempt.status == "ok"]
        ours = [a for a in _of(attempts, cell, OURS) if a.status == "ok"]
        if ok:
            row |= _measured(ok, side)
        if ours:
            tokens = ours[0].answer["tokens"]
            work = work_of(cell, num_outputs, new_pooler, tokens, ours[0].answer["texts"])
            products, per_1k = required(config, work), 1000 / work.tokens
            limit = limit_ms(products, speeds[cell.amp]) * per_1k
            row |= {
                "gflop_per_1k_tokens": gflop(products) * per_1k,
                "limit_gflops": mean_gflops(products, speeds[cell.amp]),
                "limit_ms_per_1k_tokens": limit,
                "limit_share": limit / row["ms_per_1k_tokens"] if ok else None,
            }
        if ok and ours and side != OURS:
            row |= _ratios(ours, ok, _memory_column(ok[0]), _replay)
            row |= _agreement(ours, ok, cell.amp)
        rows.append(row)
    return rows


def whole_rows(attempts: Sequence[Attempt]) -> list[Row]:
    """Rows with `WHOLE_COLUMNS`."""
    rows = []
    for cell, side, own in _grouped(attempts):
        row = _new_row(WHOLE_COLUMNS, cell, side, own)
        ok = [attempt for attempt in own if attempt.status == "ok"]
        ours = [a for a in _of(attempts, cell, OURS) if a.status == "ok"]
        if ok:
            row |= {
                **_with_ends("seconds", time_of([_duration(attempt) for attempt in ok])),
                "peak_rss_mib": _median(a.peak_rss_mib for a in ok),
                "steps": cell.max_steps,
            }
            if cell.init == "pretrained":
                row |= {name: ok[0].answer.get(name) for name in ("dev_metric", "dev_score")}
        if ok and ours and side != OURS:
            row |= _ratios(ours, ok, "peak_rss_mib", _duration)
        rows.append(row)
    return rows


def curves(attempts: Iterable[Attempt]) -> dict[str, dict[str, list[float]]]:
    """Recorded losses, by setting and side."""
    losses: dict[str, dict[str, list[float]]] = {}
    for attempt in attempts:
        if attempt.answer.get("losses"):
            losses.setdefault(setting_of(attempt.cell), {})[attempt.side] = attempt.answer["losses"]
    return losses


def operators(attempts: Iterable[Attempt]) -> dict[str, dict[str, list[Any]]]:
    """Operators of a step with calls and ms, by setting and side, each from its first process."""
    result: dict[str, dict[str, list[Any]]] = {}
    for attempt in attempts:
        if attempt.answer.get("operators"):
            sides = result.setdefault(setting_of(attempt.cell), {})
            sides.setdefault(attempt.side, attempt.answer["operators"])
    return result


def fastest(attempts: Iterable[Attempt]) -> dict[str, dict[Shape, float]]:
    """10⁹ operations per second by AMP and shape: the fastest of all processes."""
    result: dict[str, dict[Shape, float]] = {}
    for attempt in attempts:
        speeds = result.setdefault(attempt.cell.amp, {})
        for (kind, rows, outputs, inputs), speed in attempt.answer.get("gflops", ()):
            shape = (str(kind), int(rows), int(outputs), int(inputs))
            speeds[shape] = max(float(speed), speeds.get(shape, 0.0))
    return result


def problems(rows: Iterable[Row]) -> list[str]:
    """Problems of a comparison, one line each."""
    lines = []
    for row in rows:
        who = f"{row['setting']}, {row['side']}"
        if row["status"] not in ("ok", NOT_COMPILED):
            lines.append(f"{who}: {row['status']}: {row['message']}")
        elif row.get("agrees") is False:
            lines.append(
                f"{who}: the losses differ from ours by up to {row['loss_difference']:.2g} over "
                f"{row['loss_steps']} steps; the two don't do the same work"
            )
    return lines


def _grouped(attempts: Sequence[Attempt]) -> list[tuple[Cell, str, list[Attempt]]]:
    """Attempts by cell and side, in their order."""
    groups: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault((attempt.cell.name, attempt.side), []).append(attempt)
    return [(own[0].cell, side, own) for (_, side), own in groups.items()]


def _of(attempts: Iterable[Attempt], cell: Cell, side: str) -> list[Attempt]:
    return [a for a in attempts if a.cell.name == cell.name and a.side == side]


def _new_row(columns: Sequence[str], cell: Cell, side: str, own: Sequence[Attempt]) -> Row:
    failed = next((attempt for attempt in own if attempt.status != "ok"), None)
    row: Row = dict.fromkeys(columns)
    return row | {
        "setting": setting_of(cell),
        **{name: getattr(cell, name) for name in ("mode", "rank", "layers", "amp")},
        "side": side,
        "status": "ok" if failed is None else failed.status,
        "message": "" if failed is None else failed.message,
        "rounds": sum(attempt.status == "ok" for attempt in own),
    }


def _replay(attempt: Attempt) -> Replay:
    answer = attempt.answer
    return Replay(answer["passes"][answer["warm"] :], answer["tokens"])


def _duration(attempt: Attempt) -> Replay:
    return as_replay(float(attempt.scored_s or 0.0))


def _measured(ok: Sequence[Attempt], side: str) -> Row:
    answers = [attempt.answer for attempt in ok]
    first = answers[0]
    time = time_of([_replay(attempt) for attempt in ok])
    medians = (
        *("peak_above_imports_mib", "peak_anon_above_imports_mib", "imports_mib"),
        *("peak_cuda_allocated_mib", "activations_mib", "startup_s"),
    )
    return {
        **_with_ends("ms_per_1k_tokens", time),
        **{name: _median(answer.get(name) for answer in answers) for name in medians},
        "flags": " ".join(sorted({flag for answer in answers for flag in answer["flags"]})),
        "compile_s": _compile_s(first, time.value) if side == COMPILED else None,
        "panel_tokens": sum(first["tokens"]),
        "panel_padded": sum(first["padded"]),
        "epoch_tokens": first["epoch_tokens"],
        "epoch_padded": first["epoch_padded"],
        "loss_steps": len(first.get("losses", ())) or None,
    }


def _compile_s(answer: Mapping[str, Any], ms_per_1k: float) -> float:
    """The extra time of the steps before the counted ones, in the first process; later ones use the
    compiler's cache."""
    warm = answer["passes"][: answer["warm"]]
    elapsed = float(answer["first_step_ms"]) + sum(map(sum, warm))
    tokens = answer["first_step_tokens"] + len(warm) * sum(answer["tokens"])
    return max(0.0, elapsed - float(tokens) * ms_per_1k / 1000) / 1000


def _ratios(
    ours: Sequence[Attempt],
    baseline: Sequence[Attempt],
    memory: str,
    replay: Callable[[Attempt], Replay],
) -> Row:
    """Ratios of ours over the baseline, in the rounds that both have."""
    by_round = {attempt.round: attempt for attempt in ours}
    pairs = [(by_round[a.round], a) for a in baseline if a.round in by_round]
    if not pairs:
        return {}
    time = ratio_of([replay(own) for own, _ in pairs], [replay(other) for _, other in pairs])
    own, other = (_median(_memory(a, memory) for a in side) for side in zip(*pairs, strict=True))
    ratio = own / other if own is not None and other else None
    return {**_with_ends("time_ratio", time), "memory_ratio": ratio}


def _memory_column(attempt: Attempt) -> str:
    """The compared memory: on a GPU the peak allocated by tensors, else of the resident set."""
    on_gpu = "peak_cuda_allocated_mib"
    return on_gpu if attempt.answer.get(on_gpu) is not None else "peak_above_imports_mib"


def _memory(attempt: Attempt, name: str) -> float | None:
    value = attempt.peak_rss_mib if name == "peak_rss_mib" else attempt.answer.get(name)
    return None if value is None else float(value)


def _agreement(ours: Sequence[Attempt], baseline: Sequence[Attempt], amp: str) -> Row:
    own, other = (
        next((a.answer["losses"] for a in side if a.answer.get("losses")), None)
        for side in (ours, baseline)
    )
    if own is None or other is None:
        return {}
    agreement = compare(own, other, amp)
    return {"loss_difference": agreement.difference, "agrees": agreement.agrees}


def _with_ends(name: str, interval: Interval) -> Row:
    return {name: interval.value, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
