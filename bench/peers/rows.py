"""From what the processes answered to one row for each setting and side. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.peers.curves import compare
from bench.peers.limit import Shape, gflop, limit_ms, mean_gflops, required, work_of
from bench.peers.names import COMPILED, OURS
from bench.peers.ratios import Replay, ratio_of, time_of, whole
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
"""Of a comparison of steps. A ratio is ours over the row's; its own row has none."""

WHOLE_COLUMNS: Final = (
    *("setting", "mode", "rank", "layers", "amp", "side", "status", "message", "rounds", "steps"),
    *("seconds", "seconds_ci_low", "seconds_ci_high"),
    *("time_ratio", "time_ratio_ci_low", "time_ratio_ci_high"),
    *("peak_rss_mib", "memory_ratio", "dev_metric", "dev_score"),
)
"""Of a comparison of whole cells."""


NOT_COMPILED: Final = "not compiled"
"""The status of a peer that is left out because compiling it takes too long. No failure."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process: whose, in which round, how it ended and what it answered.

    Attributes:
        round: what the processes have in common that took turns.
        scored_s: from launch to the dev score, where a whole cell was asked for.
    """

    cell: Cell
    side: str
    round: str
    status: str
    message: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)
    scored_s: float | None = None
    peak_rss_mib: float | None = None


def missing_rounds(attempts: Sequence[Attempt], cell: Cell, peer: str, rounds: int) -> int:
    """How many rounds a peer still has to take turns with ours. One that is not compiled has had
    its turn."""
    own = _of(attempts, cell, peer)
    if any(attempt.status == NOT_COMPILED for attempt in own):
        return 0
    ours = {a.round for a in _of(attempts, cell, OURS) if a.status == "ok"}
    had = len(ours & {attempt.round for attempt in own if attempt.status == "ok"})
    return max(0, rounds - had)


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
        row = _begun(STEP_COLUMNS, cell, side, own)
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
            row |= _against(ours, ok, _memory_column(ok[0]), _replay)
            row |= _agreement(ours, ok, cell.amp)
        rows.append(row)
    return rows


def whole_rows(attempts: Sequence[Attempt]) -> list[Row]:
    """Rows with `WHOLE_COLUMNS`."""
    rows = []
    for cell, side, own in _grouped(attempts):
        row = _begun(WHOLE_COLUMNS, cell, side, own)
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
            row |= _against(ours, ok, "peak_rss_mib", _duration)
        rows.append(row)
    return rows


def curves(attempts: Iterable[Attempt]) -> dict[str, dict[str, list[float]]]:
    """The losses that were kept, by setting and side."""
    found: dict[str, dict[str, list[float]]] = {}
    for attempt in attempts:
        if attempt.answer.get("losses"):
            found.setdefault(setting_of(attempt.cell), {})[attempt.side] = attempt.answer["losses"]
    return found


def operators(attempts: Iterable[Attempt]) -> dict[str, dict[str, list[Any]]]:
    """Operators of a step with calls and ms, by setting and side, from each one's first process."""
    found: dict[str, dict[str, list[Any]]] = {}
    for attempt in attempts:
        if attempt.answer.get("operators"):
            sides = found.setdefault(setting_of(attempt.cell), {})
            sides.setdefault(attempt.side, attempt.answer["operators"])
    return found


def fastest(attempts: Iterable[Attempt]) -> dict[str, dict[Shape, float]]:
    """10⁹ operations a second of each shape, by AMP: the fastest that any process saw."""
    found: dict[str, dict[Shape, float]] = {}
    for attempt in attempts:
        of = found.setdefault(attempt.cell.amp, {})
        for (kind, rows, outputs, inputs), speed in attempt.answer.get("gflops", ()):
            shape = (str(kind), int(rows), int(outputs), int(inputs))
            of[shape] = max(float(speed), of.get(shape, 0.0))
    return found


def problems(rows: Iterable[Row]) -> list[str]:
    """What is wrong with a comparison, one line each."""
    found = []
    for row in rows:
        who = f"{row['setting']}, {row['side']}"
        if row["status"] not in ("ok", NOT_COMPILED):
            found.append(f"{who}: {row['status']}: {row['message']}")
        elif row.get("agrees") is False:
            found.append(
                f"{who}: the losses part from ours, by {row['loss_difference']:.2g} within "
                f"{row['loss_steps']} steps; the two don't do the same work"
            )
    return found


def _grouped(attempts: Sequence[Attempt]) -> list[tuple[Cell, str, list[Attempt]]]:
    """Attempts by cell and side, as they came."""
    found: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault((attempt.cell.name, attempt.side), []).append(attempt)
    return [(own[0].cell, side, own) for (_, side), own in found.items()]


def _of(attempts: Iterable[Attempt], cell: Cell, side: str) -> list[Attempt]:
    return [a for a in attempts if a.cell.name == cell.name and a.side == side]


def _begun(columns: Sequence[str], cell: Cell, side: str, own: Sequence[Attempt]) -> Row:
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
    return whole(float(attempt.scored_s or 0.0))


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
    """What the steps before the counted ones took beyond their usual time, in the first process:
    the later ones find its code in the compiler's cache."""
    warm = answer["passes"][: answer["warm"]]
    taken = float(answer["first_step_ms"]) + sum(map(sum, warm))
    tokens = answer["first_step_tokens"] + len(warm) * sum(answer["tokens"])
    return max(0.0, taken - float(tokens) * ms_per_1k / 1000) / 1000


def _against(ours: Sequence[Attempt], peers: Sequence[Attempt], memory: str, replay: Any) -> Row:
    """Ours over theirs, in the rounds that both have."""
    by_round = {attempt.round: attempt for attempt in ours}
    both = [(by_round[peer.round], peer) for peer in peers if peer.round in by_round]
    if not both:
        return {}
    found = ratio_of([replay(one) for one, _ in both], [replay(other) for _, other in both])
    pairs = [[_memory(side, memory) for side in pair] for pair in both]
    own, other = (_median(column) for column in zip(*pairs, strict=True))
    ratio = own / other if own is not None and other else None
    return {**_with_ends("time_ratio", found), "memory_ratio": ratio}


def _memory_column(attempt: Attempt) -> str:
    """What is compared: on a GPU what tensors had allocated, else the resident set."""
    on_gpu = "peak_cuda_allocated_mib"
    return on_gpu if attempt.answer.get(on_gpu) is not None else "peak_above_imports_mib"


def _memory(attempt: Attempt, name: str) -> float | None:
    value = attempt.peak_rss_mib if name == "peak_rss_mib" else attempt.answer.get(name)
    return None if value is None else float(value)


def _agreement(ours: Sequence[Attempt], peers: Sequence[Attempt], amp: str) -> Row:
    pair = [next((a.answer["losses"] for a in of if a.answer.get("losses")), None)
            for of in (ours, peers)]  # fmt: skip
    if pair[0] is None or pair[1] is None:
        return {}
    found = compare(pair[0], pair[1], amp)
    return {"loss_difference": found.difference, "agrees": found.agrees}


def _with_ends(name: str, interval: Interval) -> Row:
    return {name: interval.value, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
