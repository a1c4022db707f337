"""Engine minbert against transformers + PEFT, in cells and scripts that alternate: the project's
gates.

They close on a ratio of times within this run, on what is kept for the backward pass and on memory,
never on a time, by the verdicts of bench.compare: where the near end of an interval is beyond the
limit. By Student's t that takes three rounds which are all beyond it; so there is a second and a
third round only for what was beyond it in the one before. The figures of the gates that are warned
by were written by

    python -m tests.benchmarks.test_engines > tests/benchmarks/engines.json
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from math import exp, inf, log
from pathlib import Path
from statistics import fmean

import pytest

from bench.analysis.comparison import Verdict, verdict_of
from bench.analysis.engines import KEPT, TIME, baselines
from bench.machine.conditions import usable_threads
from bench.machine.environment import worker_environment
from bench.results.origins import folder_of
from bench.results.outcomes import no_values
from bench.results.protocol import PHASES
from bench.stats.intervals import mean_t
from tests.benchmarks.conftest import run_grid
from tests.minbert.peers import transformers

BASELINE = Path(__file__).with_name("engines.json")
WORSE = 1.15  # how many times a figure of the baseline leads to a warning
_CELLS = """
[[cells]]
mode = ["lora", "dora"]
rank = [8]
layers = ["all-lin-only"]
amp = ["on"]
settings = """
GATES = f"""
[settings]
epochs = 1
max_train = 1024
max_dev = 64
max_steps = 2
{_CELLS}{{ engine = "minbert" }}
{_CELLS}{{ engine = "transformers", own_kernels = false }}
"""
"""The settings of the gates, in both engines on the same batches, timed on replayed batches. They
are in bf16; fp32, which `--grid engines` measures, would double the time of this benchmark."""
STEPS, SIZE = 12, 32  # of each script and the cell that it is compared with
ROUNDS = 3  # the most, of a script and its cell as of the cells of the gates
WHOLE = f"""
[settings]
epochs = 1
max_train = {STEPS * SIZE}
max_dev = 256
batch_size = {SIZE}
batching = "shuffled"
[[cells]]
mode = ["lora"]
rank = [8]
layers = ["all-lin-only"]
settings = {{ engine = "transformers" }}
"""
LOOP = 1.1
"""The most that a whole cell of engine transformers may take, in the time of a script with a plain
loop. A cell of minbert takes less, by the gates, and Trainer takes more."""
LIMITS = {
    "lora-r8-all-lin-only-bf16": {"time": 0.8, "memory": 0.69, "kept": 0.45, "start": 1.0},
    "dora-r8-all-lin-only-bf16": {"time": 0.65, "memory": 0.46, "kept": 0.27, "start": 1.0},
}
"""The most that ours over the peer's may be. `time`, of a step: where products are fast and memory
is not, there is less to gain than where products are most of the work. `memory`, the peak of a
whole cell above the imported libraries: the largest batch is not among its few steps, so fixed
parts weigh more than in a whole epoch. `kept`, what the forward pass of the largest batch keeps: a
count, which varies little. `start`, the time until a worker begins to train."""
DORA_KEEPS = 1.05  # what DoRA keeps at most, in LoRA's


def test_against_transformers_and_peft(benchmark, tmp_path):
    transformers()
    benchmark.group = "gates"

    def measure():
        result = figures(run_grid(tmp_path, GATES))
        for repeats in range(2, ROUNDS + 1):
            if beyond := [name.partition("-")[0] for name in LIMITS if over(result, name)]:
                more = ("--repeats", str(repeats), "--select", f"mode={','.join(beyond)}")
                result = figures(run_grid(tmp_path, GATES, *more))
        return result

    result = benchmark.pedantic(measure, rounds=1, iterations=1)
    benchmark.extra_info.update(result)
    assert not broken(result), result
    if warning := worse(result, json.loads(BASELINE.read_text(encoding="utf-8"))):
        warnings.warn("worse than the baseline: " + "; ".join(warning), stacklevel=1)


def test_a_whole_cell_against_a_script(benchmark, tmp_path, minilm):
    """From the start of a process to its end, with the score on dev."""
    transformers()
    benchmark.group = "whole cells"

    def measure():
        ratios = []
        while len(ratios) < ROUNDS and min(ratios, default=inf) > LOOP:
            script_s, repeat = script(minilm, tmp_path), len(ratios) + 1
            rows = run_grid(tmp_path, WHOLE, "--repeats", str(repeat))
            cell = next(row for row in rows if row.repeat == repeat)
            ratios.append(cell_s(tmp_path, cell) / script_s)
        return ratios

    ratios = benchmark.pedantic(measure, rounds=1, iterations=1)
    interval = mean_t([log(ratio / LOOP) for ratio in ratios])
    low, high = interval.ends() or (interval.value, interval.value)
    benchmark.extra_info.update(low=LOOP * exp(low), high=LOOP * exp(high))
    assert verdict_of(low, high, 0.0)[0] is not Verdict.REGRESSION


def cell_s(folder, row):
    """The seconds of a cell's process without those of measuring, which no script does. The grid
    has made the token ids of its texts before, once for all cells."""
    phases = folder_of(folder / "runs.csv", row) / PHASES
    with phases.open(newline="", encoding="utf-8") as lines:
        seconds = {line["phase"]: float(line["seconds"]) for line in csv.DictReader(lines)}
    return float(row.wall_s or 0.0) - seconds["measure"]


def script(model, folder):
    """Run the script, as its user does; its seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.loop_script", str(model)]
    root = Path(__file__).parents[2]
    environment = worker_environment(os.environ, usable_threads(), tuned=False)
    start = time.perf_counter()
    ran = subprocess.run(
        [*command, str(STEPS), str(SIZE)], cwd=folder, check=False, capture_output=True, text=True,
        env=environment | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return time.perf_counter() - start


def figures(rows):
    """The ratios of each setting, minbert over transformers, and what minbert keeps, MiB."""
    (baseline,) = baselines(rows, no_values)
    kept = {id(pair): one for pair, one in baseline.compared(KEPT)}
    result = {}
    for pair, one in baseline.compared(TIME):
        activations = kept[id(pair)]
        low, high = one.interval.ends() or (one.interval.value,) * 2
        memory, start = ([mean(of) for of in (pair.new, pair.base)] for mean in (above, start_s))
        result[pair.new.rows[0].name.rpartition("-")[0]] = {
            "time": one.interval.value, "time_low": low, "time_high": high,
            "memory": memory[0] / memory[1], "kept": activations.interval.value,
            "kept_mib": activations.new or 0.0, "start": start[0] / start[1],
        }  # fmt: skip
    return result


def above(setting):
    """The mean peak of anonymous memory above the imported libraries, MiB."""
    return fmean((row.peak_anon_mib or 0.0) - (row.imports_anon_mib or 0.0) for row in setting.ok)


def start_s(setting):
    """The mean time until a worker begins to train, s."""
    return fmean(row.startup_s or 0.0 for row in setting.ok)


def verdict(figures, name, limit):
    """The verdict of bench.compare on a ratio, whose minimum effect is the limit itself."""
    ends = (figures.get(f"{name}{end}") or figures[name] for end in ("_low", "_high"))
    low, high = (log(end / limit) for end in ends)
    return verdict_of(low, high, 0.0)[0]


def over(result, setting):
    """Whether a figure of a setting is beyond its limit, for sure or not."""
    return any(result[setting][name] > limit for name, limit in LIMITS[setting].items())


def broken(result):
    """The gates that do not hold."""
    problems = [
        f"{setting}: {name} {result[setting][name]:.2f}, at most {limit}"
        for setting, limits in LIMITS.items()
        for name, limit in limits.items()
        if name in result[setting]  # what older baselines lack
        and verdict(result[setting], name, limit) is Verdict.REGRESSION
    ]
    lora, dora = (result[setting]["kept_mib"] for setting in LIMITS)
    if dora > DORA_KEEPS * lora:
        problems.append(f"DoRA keeps {dora / lora:.2f} times as much as LoRA")
    return problems


def worse(result, baseline):
    """What is clearly more than it was on the machine of the baseline."""
    return [
        f"{setting}: {name} {value:.2f}, was {baseline[setting][name]:.2f}"
        for setting, values in result.items()
        for name, value in values.items()
        if name in ("time", "memory", "kept") and value > WORSE * baseline[setting][name]
    ]


@pytest.mark.parametrize(
    ("factors", "problems"),
    [
        ({}, 0),
        ({"time": 1.01}, 1), ({"memory": 1.01}, 1), ({"kept": 1.01}, 1), ({"start": 1.01}, 1),
        ({"kept_mib": 1.01}, 1),  # of DoRA more than of LoRA
        ({"time": 1.5, "time_low": 0.99}, 0),  # an interval that holds the limit
    ],
)  # fmt: skip
@pytest.mark.parametrize("setting", LIMITS)
def test_each_gate_closes(setting, factors, problems):
    """One by one, from figures that are just inside of every gate."""
    kept = zip(LIMITS.items(), (100.0, 105.0), strict=True)
    result = {name: {**limits, "kept_mib": mib} for (name, limits), mib in kept}
    inside = dict(result[setting])
    for name, factor in factors.items():
        result[setting][name] = factor * inside[name.removesuffix("_low")]
    is_lora = setting.startswith("lora")
    assert len(broken(result)) == (0 if is_lora and "kept_mib" in factors else problems)
    assert over(result, setting) == bool(factors.keys() - {"kept_mib"})


def test_the_baseline_warns_of_what_is_clearly_worse_and_of_nothing_else():
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    assert broken(baseline) == []
    assert worse(baseline, baseline) == []
    result = {setting: dict(values) for setting, values in baseline.items()}
    result["lora-r8-all-lin-only-fp32"]["time"] *= 1.2
    (warning,) = worse(result, baseline)
    assert warning.startswith("lora-r8-all-lin-only-fp32: time")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        result = figures(run_grid(Path(name), GATES, "--repeats", "2"))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
