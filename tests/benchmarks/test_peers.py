"""LoRA and DoRA against transformers + PEFT, in processes that alternate: the project's gates.

They close on a ratio of times within this run, on what is kept for the backward pass and on memory,
never on a time, by the verdicts of bench.compare: where the near end of an interval is beyond the
limit. Where a time is undecided after two rounds, two more are run. The same command wrote the
baseline that is warned by:

    python -m bench.peers --quick --peers grouped --select "mode=lora,dora layers=all-lin-only" \
        --json > tests/benchmarks/peers.json
"""

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any, Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.analysis.comparison import Verdict, verdict_of
from tests.minbert.peers import transformers

COMMAND: Final = (
    *(sys.executable, "-m", "bench.peers", "--quick", "--peers", "grouped"),
    *("--select", "mode=lora,dora layers=all-lin-only", "--json"),
)
BASELINE: Final = Path(__file__).with_name("peers.json")
WORSE: Final = 1.15
"""How many times a figure of the baseline leads to a warning."""

TIME: Final = {
    "lora-r8-all-lin-only-fp32": 1.1,
    "lora-r8-all-lin-only-bf16": 0.8,
    "dora-r8-all-lin-only-fp32": 0.85,
    "dora-r8-all-lin-only-bf16": 0.65,
}
"""The most that our time over the peer's may be. Processors differ: where products are fast and
memory is not, there is less to gain than where products are most of the work."""
MEMORY: Final = {
    "lora-r8-all-lin-only-fp32": 0.68,
    "lora-r8-all-lin-only-bf16": 0.57,
    "dora-r8-all-lin-only-fp32": 0.45,
    "dora-r8-all-lin-only-bf16": 0.42,
}
"""Likewise of the peak above the imported libraries."""
KEPT: Final = {
    "lora-r8-all-lin-only-fp32": 0.66,
    "lora-r8-all-lin-only-bf16": 0.45,
    "dora-r8-all-lin-only-fp32": 0.38,
    "dora-r8-all-lin-only-bf16": 0.27,
}
"""Likewise of what the forward pass of the largest batch keeps; a count, which varies little."""
DORA_KEEPS: Final = 1.05
"""What DoRA keeps at most, in LoRA's."""


def test_against_transformers_and_peft(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    transformers()
    benchmark.group = "gates"

    def compare(rounds: int) -> dict[str, dict[str, float]]:
        more = ("--runs", str(tmp_path / "peers.jsonl"), "--rounds", str(rounds))
        command = (*COMMAND, *more)
        ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return figures(json.loads(ran.stdout))

    found = benchmark.pedantic(compare, args=(2,), rounds=1, iterations=1)
    if Verdict.UNDECIDED in (verdict(found[setting], "time", TIME[setting]) for setting in TIME):
        found = compare(4)
    benchmark.extra_info.update(found)
    assert not broken(found), found
    if told := worse(found, figures(json.loads(BASELINE.read_text(encoding="utf-8")))):
        warnings.warn("worse than the baseline: " + "; ".join(told), stacklevel=1)


def figures(told: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The ratios of each setting, ours over the peer's, and what ours keeps, MiB."""
    sides: dict[str, dict[str, dict[str, Any]]] = {}
    for row in told["rows"]:
        sides.setdefault(row["setting"], {})[row["side"]] = row
    return {
        setting: {
            "time": of["grouped"]["time_ratio"],
            "time_low": of["grouped"]["time_ratio_ci_low"],
            "time_high": of["grouped"]["time_ratio_ci_high"],
            "memory": of["grouped"]["memory_ratio"],
            "kept": of["ours"]["activations_mib"] / of["grouped"]["activations_mib"],
            "kept_mib": of["ours"]["activations_mib"],
        }
        for setting, of in sides.items()
    }


def verdict(figures: Mapping[str, float], name: str, limit: float) -> Verdict:
    """The verdict of bench.compare on a ratio, whose minimum effect is the limit itself."""
    ends = (figures.get(f"{name}{end}") or figures[name] for end in ("_low", "_high"))
    low, high = (log(end / limit) for end in ends)
    return verdict_of(low, high, 0.0)[0]


def broken(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The gates that do not hold."""
    limits = {"time": TIME, "memory": MEMORY, "kept": KEPT}
    told = [
        f"{setting}: {name} {found[setting][name]:.2f}, at most {limit}"
        for name, of in limits.items()
        for setting, limit in of.items()
        if verdict(found[setting], name, limit) is Verdict.REGRESSION
    ]
    for kind in ("fp32", "bf16"):
        lora, dora = (
            found[f"{mode}-r8-all-lin-only-{kind}"]["kept_mib"] for mode in ("lora", "dora")
        )
        if dora > DORA_KEEPS * lora:
            told.append(f"DoRA keeps {dora / lora:.2f} times as much as LoRA in {kind}")
    return told


def worse(
    found: Mapping[str, Mapping[str, float]], baseline: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """What is clearly more than it was on the machine of the baseline."""
    return [
        f"{setting}: {name} {value:.2f}, was {baseline[setting][name]:.2f}"
        for setting, of in found.items()
        for name, value in of.items()
        if name in ("time", "memory", "kept") and value > WORSE * baseline[setting][name]
    ]


def within() -> dict[str, dict[str, float]]:
    """Figures that are just inside of every gate."""
    return {
        setting: {
            "time": TIME[setting],
            "memory": MEMORY[setting],
            "kept": KEPT[setting],
            "kept_mib": 105.0 if setting.startswith("dora") else 100.0,
        }
        for setting in TIME
    }


def test_figures_within_the_gates_pass() -> None:
    assert broken(within()) == []


def test_an_interval_that_holds_the_limit_closes_no_gate() -> None:
    found = within()
    setting = next(iter(TIME))
    found[setting] |= {"time_low": 0.99 * TIME[setting], "time_high": 2 * TIME[setting]}
    assert broken(found) == []
    assert verdict(found[setting], "time", TIME[setting]) is Verdict.UNDECIDED


@pytest.mark.parametrize("name", ["time", "memory", "kept"])
@pytest.mark.parametrize("setting", TIME)
def test_each_gate_closes(setting: str, name: str) -> None:
    found = within()
    found[setting][name] *= 1.01
    assert len(broken(found)) == 1


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_dora_may_not_keep_much_more_than_lora(kind: str) -> None:
    found = within()
    found[f"dora-r8-all-lin-only-{kind}"]["kept_mib"] *= 1.01
    assert broken(found) == [f"DoRA keeps 1.06 times as much as LoRA in {kind}"]


def test_the_baseline_warns_of_what_is_clearly_worse_and_of_nothing_else() -> None:
    baseline = figures(json.loads(BASELINE.read_text(encoding="utf-8")))
    assert broken(baseline) == []
    assert worse(baseline, baseline) == []
    found = {setting: dict(of) for setting, of in baseline.items()}
    found["lora-r8-all-lin-only-fp32"]["time"] *= 1.2
    (told,) = worse(found, baseline)
    assert told.startswith("lora-r8-all-lin-only-fp32: time")
