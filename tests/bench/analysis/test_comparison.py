"""Two sets of rows, compared: what matches, what is significant, and what makes a regression; and
two machines, compared through the settings that both ran."""

import math

import numpy as np
import pytest

from bench.analysis.comparison import Limits, Verdict, compare
from bench.common.errors import InputError
from bench.results.outcomes import no_values
from tests.bench.synthetic_rows import cell, failed_row, result_row

TIME, RSS, SCORE = "ms_per_1k_tokens", "peak_rss_mib", "dev_score"
KEPT = "activations_mib"
LORA = ("lora", 4, "attn-only", "bf16")
FULL, BF16 = ("full", None, None, "off"), ("full", None, None, "bf16")
THERE = {"machine": "EPYC, 64 cores, 256 GiB", "conditions_id": "there", "threads": 64}
GPU = THERE | {"device": "cuda:0", "device_name": "H100", "peak_cuda_allocated_mib": 400.0}
HERE_TIMES = {FULL: 100.0, BF16: 80.0, LORA: 60.0}
THERE_TIMES = {FULL: 20.0, BF16: 8.0, LORA: 12.0}


def run(axes=FULL, seed=0, repeat=1, minute=0, cell_settings=None, **figures):
    """A row that started at a minute of the hour."""
    row = result_row(cell(*axes, seed, **(cell_settings or {})))
    usual = {TIME: 40.0, RSS: 1000.0, KEPT: 300.0, SCORE: 0.5, "repeat": repeat,
             "started_at": f"2026-11-20T10:{minute:02d}:00Z"}  # fmt: skip
    return row | usual | figures


def runs(number=6, axes=FULL, offset=0, rng=None, std=0.0, **figures):
    """Repeats of one seed, two minutes from one another; costs scatter by a std of logarithms."""
    rng = np.random.default_rng(rng or 0)
    rows = []
    for i in range(number):
        noisy = {
            name: figures.get(name, usual) * math.exp(rng.normal(0, std))
            for name, usual in ((TIME, 40.0), (RSS, 1000.0))
        }
        rows.append(run(axes, repeat=i + 1, minute=2 * i + offset, **{**figures, **noisy}))
    return rows


def seeds(values, axes=FULL, column=SCORE, first=0, **figures):
    """A run of each seed, with these scores or values of another column."""
    return [run(axes, seed, **{column: v}, **figures) for seed, v in enumerate(values, first)]


def of(base, new, limits=None, **options):
    options.setdefault("values_of", (no_values, no_values))
    return compare(base, new, limits or Limits(), **options)


def in_column(comparison, column, *, overall=False):
    """The results of all pairs in a column, or that over all settings."""
    every = [comparison.overall] if overall else [pair.compared for pair in comparison.pairs]
    return [one for compared in every for one in compared if one.measure.column == column]


def only(comparison, column, *, overall=False):
    """The result of the one pair in a column, or that over all settings."""
    [one] = in_column(comparison, column, overall=overall)
    return one


def verdict(comparison, column):
    return only(comparison, column).verdict


def by_number(numbers):
    """The outcomes of each seed."""
    return lambda rows: numbers[rows[0].seed].astype(float)


def failed(status="oom", seed=0):
    return failed_row(cell(*FULL, seed), status, "no memory left")


COUNTS, OTHER_COUNTS = (seeds([n] * 3, column=KEPT, first=i) for n, i in ((300.0, 0), (330.0, 3)))
HALF, LESS = (seeds([score] * 3) for score in (0.5, 0.49))
UNLEARNED = seeds([0.3] * 2, flags="not_learned")


@pytest.mark.parametrize(("base", "new", "limits", "column", "expected"), [
    ([run()], [run(**{KEPT: 303.0})], {}, KEPT, Verdict.SMALL),
    ([run()], [run(**{KEPT: 303.0})], {"memory": 0.005}, KEPT, Verdict.REGRESSION),
    ([run()], [run(**{RSS: 1200.0})], {}, RSS, Verdict.REGRESSION),
    (runs(), runs(offset=1, **{RSS: 1100.0}), {"memory": 0.2}, RSS, Verdict.SMALL),
    (runs(), runs(offset=1, **{TIME: 44.0}), {}, TIME, Verdict.REGRESSION),
    (runs(), runs(offset=1, **{TIME: 44.0}), {"slowdown": 0.2}, TIME, Verdict.SMALL),
    (COUNTS, OTHER_COUNTS, {}, KEPT, Verdict.NOT_COMPARED),
    ([run(**{KEPT: None})], [run()], {}, KEPT, Verdict.NOT_COMPARED),
    (COUNTS, [*OTHER_COUNTS, run(seed=2, **{KEPT: 330.0})], {}, KEPT, Verdict.REGRESSION),
    (COUNTS, [run(seed=2, repeat=7, **{KEPT: 330.0})], {}, KEPT, Verdict.REGRESSION),
    (HALF, LESS, {}, SCORE, Verdict.REGRESSION),
    (HALF, LESS, {"score_drop": "2pt"}, SCORE, Verdict.SMALL),
    (HALF, LESS, {"score_drop": "3%"}, SCORE, Verdict.SMALL),
    (UNLEARNED, UNLEARNED, {}, SCORE, Verdict.NOT_COMPARED),
])  # fmt: skip
def test_a_verdict_follows_from_few_runs_and_the_limits(base, new, limits, column, expected):
    one = only(of(base, new, Limits(**limits)), column)
    assert one.verdict is expected
    assert one.significant == (expected in (Verdict.REGRESSION, Verdict.SMALL))


def test_counts_that_differ_by_seed_have_the_range_of_their_ratios():
    interval = only(of(COUNTS, seeds([300.0, 301.0, 302.0], column=KEPT)), KEPT).interval
    assert (interval.low, interval.high) == pytest.approx((1.0, 302 / 300))
    one = only(of(COUNTS, OTHER_COUNTS), KEPT)
    assert (one.interval, one.why.partition(",")[0]) == (None, "no seed in common")


def test_repeats_of_other_numbers_are_paired_by_their_rank():
    rng = np.random.default_rng(0)
    base = runs(6, rng=rng, std=0.01)
    new = [row | {"repeat": row.repeat + 6} for row in runs(5, offset=1, rng=rng, std=0.01)]
    one = only(of(base, new), RSS)
    assert one.runs == (6, 5)
    renumbered = [row | {"repeat": row.repeat - 6} for row in new]
    assert one.interval == only(of(base, renumbered), RSS).interval


def test_repeats_of_one_seed_do_not_show_how_peaks_of_other_seeds_differ():
    rng = np.random.default_rng(0)
    base = runs(4, rng=rng, std=0.002)
    new = [row | {"seed": 5} for row in runs(4, offset=1, rng=rng, std=0.002, **{RSS: 1080.0})]
    one = only(of(base, new), RSS)
    assert (one.verdict, one.runs, one.needed) == (Verdict.UNDECIDED, (4, 4), None)
    assert "same seeds" in one.why
    assert math.log(one.interval.high / one.interval.value) > 1.96 * 0.04 * math.sqrt(2)
    several = [row | {"seed": i} for i, row in enumerate(base)]
    others = [row | {"seed": i + 10} for i, row in enumerate(new)]
    assert verdict(of(several, others), RSS) is Verdict.REGRESSION, "seeds that hardly differ"


def test_times_that_were_not_measured_in_alternation_never_gate():
    found = of(runs(), runs(offset=30, **{TIME: 80.0}))
    one = only(found, TIME)
    assert (one.verdict, one.gates) == (Verdict.REGRESSION, False)
    assert "--run" in one.why
    assert not found.regressions
    within = only(of(runs(), runs(offset=1, **{TIME: 80.0})), TIME)
    assert within.gates
    assert one.interval.low < within.interval.low
    assert of(runs(), runs(offset=30, **{RSS: 1500.0})).regressions, "other measures gate"
    late = [*runs(4), run(repeat=5, minute=50)]
    assert not only(of(late, runs(5, offset=20, **{TIME: 80.0})), TIME).gates
    turns = [run(repeat=i + 1, minute=minute) for i, minute in enumerate((0, 3))]
    others = [run(repeat=i + 1, minute=minute) for i, minute in enumerate((1, 2))]
    assert only(of(turns, others), TIME).gates


def test_times_in_doubt_do_not_count_where_others_have_none():
    base, new = runs(4), runs(4, offset=1)
    new[3] |= {TIME: 80.0, "flags": "disturbed"}
    one = only(of(base, new), TIME)
    assert (one.interval.value, one.runs) == (pytest.approx(1), (4, 3))
    assert only(of(base, new), RSS).runs == (4, 4)
    few = only(of([base[0], base[3]], [new[0], new[3]]), TIME)
    assert (few.interval.value, few.runs) == (pytest.approx(math.sqrt(2)), (2, 2))


def test_a_regression_is_excluded_though_an_improvement_is_undecided():
    base, new = (runs(6, offset=i, rng=np.random.default_rng(i), std=0.03, **{TIME: t})
                 for i, t in enumerate((40.0, 37.5)))  # fmt: skip
    one = only(of(base, new), TIME)
    assert (one.verdict, one.may_be_worse) == (Verdict.UNDECIDED, False)
    back = only(of(new, base), TIME)
    assert (back.may_be_worse, back.needed, back.gates) == (True, one.needed, one.gates)
    assert (back.interval.value, back.interval.low) == pytest.approx(
        (1 / one.interval.value, 1 / one.interval.high)
    )


def test_times_over_all_settings_are_of_those_measured_in_alternation():
    base = [*runs(), *runs(axes=LORA)]
    new = [*runs(offset=1, **{TIME: 44.0}), *runs(axes=LORA, offset=30, **{TIME: 80.0})]
    one = only(of(base, new), TIME, overall=True)
    assert one.interval.value == pytest.approx(1.1)
    assert one.why == "over the 1 of 2 settings measured in alternation"
    alone = only(of(base, new[6:] + runs(offset=30)), TIME, overall=True)
    assert (alone.interval.value, alone.gates) == (pytest.approx(math.sqrt(2)), False)


def test_settings_compared_with_one_and_the_same_have_wider_intervals():
    def widths(comparison):
        return [one.interval.high / one.interval.low for one in in_column(comparison, RSS)]

    rng = np.random.default_rng(0)
    axes = [("lora", rank, "attn-only", "off") for rank in (1, 2, 4, 8)]
    base = runs(3, rng=rng, std=0.003)
    new = [row for each in axes for row in runs(3, each, offset=1, rng=rng, std=0.003)]
    copies = [row for each in axes for row in runs(3, each, std=0.003)]
    one_base = widths(of(base, new, named=["mode", "rank", "layers"]))
    assert len(one_base) == 4
    assert min(one_base) > max(widths(of(copies, new)))


def test_scores_of_one_seed_compare_trainings_and_not_settings():
    for base, new in (([0.9], [0.2]), ([0.9, 0.89], [0.2])):
        one = only(of(seeds(base), seeds(new)), SCORE)
        assert (one.verdict, one.gates, one.needed) == (Verdict.UNDECIDED, False, 3)
        assert "several seeds" in one.why
    assert only(of(seeds([0.9]), seeds([0.2])), SCORE).significant
    right = np.random.default_rng(0).random(2000) < 0.6
    values_of = (by_number(np.array([right, ~right, ~right])),) * 2
    one = only(of(seeds([0.6]), seeds([0.6, 0.4, 0.4]), values_of=values_of), SCORE)
    assert (one.interval.value, one.verdict, one.runs) == (0, Verdict.UNDECIDED, (1, 3))


def test_scores_are_paired_over_examples():
    rng = np.random.default_rng(0)
    right = rng.random((3, 2000)) < 0.6
    better = right | (rng.random((3, 2000)) < 0.05)
    base, new = (seeds(numbers.mean(axis=1).tolist()) for numbers in (right, better))
    both = ([*side, *seeds([row.dev_score for row in side], LORA)] for side in (base, new))
    paired = of(*both, values_of=(by_number(right), by_number(better)))
    assert {one.verdict for one in in_column(paired, SCORE)} == {Verdict.IMPROVEMENT}
    assert only(paired, SCORE, overall=True).verdict is Verdict.IMPROVEMENT
    unpaired = of(base[:2], [row | {"seed": row.seed + 9} for row in new[:2]])
    assert verdict(unpaired, SCORE) is Verdict.UNDECIDED
    numbers = np.tile([1.0, 0.0], (2, 10))
    for other, expected in ((numbers, Verdict.SAME), (1 - numbers, Verdict.UNDECIDED)):
        few = of(HALF[:2], HALF[:2], values_of=(by_number(numbers), by_number(other)))
        assert verdict(few, SCORE) is expected, "only the same predictions are no difference"


def test_equal_differences_of_few_examples_are_not_certain():
    """Scores of 64 examples are multiples of 1/64: differences are often equal by chance."""
    ends = {"dev_ci_low": 0.38, "dev_ci_high": 0.62}
    base, new = seeds([0.5, 0.515625], **ends), seeds([0.46875, 0.484375], LORA, **ends)
    one = only(of(base, new, named={"mode", "amp"}), SCORE)
    assert (one.verdict, one.may_be_worse, one.significant) == (Verdict.UNDECIDED, True, False)


def test_of_an_error_less_is_better_and_its_limit_is_a_share():
    errors = [20.0, 21.0, 19.5], [22.0, 23.1, 21.4]
    base, new = (seeds(values, dev_metric="rmse") for values in errors)
    one = only(of(base, new), SCORE)
    assert one.verdict is Verdict.REGRESSION
    assert one.limit == pytest.approx(0.005 * np.mean(errors[0]))
    assert verdict(of(new, base), SCORE) is Verdict.IMPROVEMENT
    with pytest.raises(InputError, match="--max-score-drop: 'much'"):
        of(base, new, Limits(score_drop="much"))


OK, OOM = [run(), run(seed=1)], [run(), failed(seed=1)]
MORE = [*seeds([0.5] * 5), run(seed=5, **{SCORE: 0.3}, flags="not_learned")]


@pytest.mark.parametrize(("base", "new", "failing", "passing"), [
    (OK, OOM, "ok, then oom in 1 of 2 runs: no memory left", ""),
    (OOM, OK, "", "oom in 1 of 2 runs, then ok: no memory left"),
    (OOM, OOM, "", ""),
    (OK, [run(), failed("invalid", seed=1)], "ok, then invalid in 1 of 2 runs: no memory left", ""),
    (OK, [run(), failed("skipped", seed=1)], "", ""),
    (OK, [run(), failed("interrupted", seed=1)], "", ""),
    (OK[:1], [failed(seed=5)], "ok, then oom in 1 of 1 run: no memory left", ""),
    (OOM, [failed(seed=5)], "", ""),
    (HALF[:2], UNLEARNED, "learned, then flagged not_learned", ""),
    (UNLEARNED, HALF[:2], "", "not_learned, then learned"),
    (HALF[:2], MORE, "", ""),  # the more seeds, the more likely is one that is flagged
    (MORE[5:], HALF[:1], "", ""),
    (seeds([0.5] * 6), MORE, "learned, then flagged not_learned", ""),
])  # fmt: skip
def test_a_newly_failing_cell_is_a_regression_and_a_newly_passing_one_is_reported(
    base, new, failing, passing
):
    compared = of(base, new)
    assert [pair.failing for pair in compared.failing] == [failing][: bool(failing)]
    assert [pair.passing for pair in compared.passing] == [passing][: bool(passing)]


def reasons(comparison):
    return {(one.side, one.why) for one in comparison.unmatched}


def test_named_columns_may_differ_with_what_follows_from_them():
    off, bf16 = [run(("full", None, None, "off"))], [run(("full", None, None, "bf16"))]
    assert not of(off, bf16).pairs
    (pair,) = of(off, bf16, named=["amp"]).pairs
    assert pair.label == "full, bf16 against full, fp32"
    loras = [run(LORA), run(("lora", 8, "attn-only", "bf16")), run(("head", None, None, "bf16"))]
    found = of(off, loras, named=["mode", "amp"])
    assert len(found.pairs) == 3
    assert len({id(pair.base) for pair in found.pairs}) == 1
    found = of(loras, off, named=["mode", "amp"])
    assert not found.pairs
    assert ("NEW", "several settings of BASE match: narrow --base") in reasons(found)
    other = [run(LORA), run(LORA, cell_settings={"data_digest": "other"})]
    found = of([run()], other, named={"mode", "rank", "layers", "amp"})
    assert reasons(found) == {("NEW", "other data than in BASE")}
    for change, why in (({"model_digest": "x"}, "other model than in NEW"),
                        ({"batch_size": 8}, "batch_size is 32, in NEW 8")):  # fmt: skip
        found = of([run()], [run(cell_settings=change)], named=["task", "data_digest"])
        assert ("BASE", why) in reasons(found)
        assert (len(found.unmatched), found.pairs, found.results) == (2, (), [])
    rates = ("learning_rate", "learning_rate_base", "learning_rate_head")
    base, new = ([run(LORA, cell_settings=dict.fromkeys(rates, rate))] for rate in (1e-3, 1e-4))
    assert len(of(base, new, named={"learning_rate"}).pairs) == 1
    assert not of(base, new).pairs
    ranked = run(("lora", 8, "attn-only", "bf16"), cell_settings={"alpha": 32.0})
    (pair,) = of([run(LORA)], [ranked], named=["rank"]).pairs
    assert pair.label.startswith("lora rank 8")


def test_another_metric_or_way_of_measuring_is_not_compared():
    found = of(seeds([0.5] * 2), seeds([0.5] * 2, measurement_version=2, dev_metric="macro_f1"))
    time, score = only(found, TIME), only(found, SCORE)
    assert time.verdict is score.verdict is Verdict.NOT_COMPARED
    assert time.why == "measured in other ways: measurement_version 1 and 2"
    assert "accuracy in BASE, macro_f1 in NEW" in score.why
    assert ("measurement_version", "1", "2") in found.differs
    base, new = ([run(engine="transformers", engine_version=f"peft {n}")] for n in (1, 2))
    assert not of(base, new, named=("engine_version",)).pairs
    again = of(seeds([0.5] * 2), seeds([0.5] * 2, measurement_version=2))
    assert verdict(again, SCORE) is Verdict.SAME


def test_rows_of_a_common_machine_are_compared_there():
    elsewhere = {"machine": "another", "conditions_id": "other"}
    found = of([run(), run() | elsewhere], [run(), run(LORA) | {"machine": "a third"}])
    (pair,) = found.pairs
    assert "another" not in pair.machine
    assert reasons(found) == {
        ("BASE", "measured on another, 2 threads in BASE alone"),
        ("NEW", "measured on a third, 2 threads in NEW alone"),
    }
    assert found.machines is None


def rows(times, place=None, repeats=4, std=0.01, seed=0):
    rng = np.random.default_rng(seed)
    return [
        run(axes, repeat=k + 1, **{TIME: time * np.exp(rng.normal(0, std))}, **place or {})
        for axes, time in times.items()
        for k in range(repeats)
    ]


def costs(machines):
    return {(row.label, cost.column): cost for row in machines.rows for cost in row.costs}


def costs_of(comparison):
    every = (one for pair in comparison.pairs for one in pair.compared)
    return {(one.verdict, one.why) for one in every if one.measure.kind != "score"}


def test_absolute_times_have_the_drift_between_sessions_and_ratios_to_full_have_not():
    slower = of(rows(THERE_TIMES, THERE), rows(HERE_TIMES))
    assert costs_of(slower) == {(Verdict.NOT_COMPARED, "measured on other machines")}
    assert slower.regressions == [], "machines never gate"
    compared = [
        of(rows(HERE_TIMES, **noise), rows(THERE_TIMES, THERE, seed=1, **noise)).machines
        for noise in ({"std": 1e-4}, {}, {"repeats": 1})
    ]
    exact, several, single = (costs(machines)["full, bf16", TIME] for machines in compared)
    precise = compared[0]
    full = costs(precise)["full, fp32", TIME]
    assert (full.absolute.value, full.normalised) == (pytest.approx(0.2, rel=0.01), None)
    assert exact.normalised.value == pytest.approx(0.5, rel=0.01), "bf16 gains twice as much there"
    assert costs(precise)["full, bf16", RSS].absolute.value == 1
    assert (precise.new, precise.why) == ("EPYC, 64 cores, 256 GiB, 64 threads", "")
    absolute, *widths = (
        interval.high / interval.low
        for interval in (exact.absolute, exact.normalised, several.normalised, single.normalised)
    )
    assert absolute > 1.2
    assert widths[0] < 1.01
    assert widths == sorted(widths)
    assert widths[-1] > 1.5


def test_ratios_of_machines_need_full_fine_tuning_in_fp32_and_those_of_memory_devices_of_a_type():
    without = of(rows({BF16: 80.0}), rows({BF16: 8.0}, THERE)).machines
    assert {cost.normalised for cost in costs(without).values()} == {None}
    assert "full fine-tuning in fp32" in without.why
    found = of(rows(HERE_TIMES), rows(THERE_TIMES, GPU))
    assert {column for _, column in costs(found.machines)} == {TIME}
    assert "memory on a cpu and on a cuda is not comparable" in found.machines.why
    assert found.machines.new.startswith("H100 in EPYC")
    other = rows(THERE_TIMES, GPU | {"device_name": "A100", "conditions_id": "a100"})
    found = of(other, rows(THERE_TIMES, GPU))
    assert {column for _, column in costs(found.machines)} == {TIME, "peak_cuda_allocated_mib"}


def test_cells_measured_beside_others_are_not_compared_with_cells_alone():
    shared = {"sharing": "2 workers", "conditions_id": "shared", "threads": 1}
    found = of(rows(HERE_TIMES), rows(THERE_TIMES, shared))
    assert found.machines is None
    assert {why for _, why in costs_of(found)} == {"one measured while other cells ran"}
    assert "sharing" in {name for name, _, _ in found.differs}
    alike = of(rows(HERE_TIMES, shared), rows(THERE_TIMES, shared))
    [machine] = {pair.machine for pair in alike.pairs}
    assert machine == "Xeon 2.8 GHz, 2 cores, 16 GiB, 1 threads, 2 workers"


def test_other_ways_of_measuring_are_left_out():
    found = of(rows(HERE_TIMES), rows(THERE_TIMES, THERE | {"measurement_version": 2}))
    assert found.machines is None
    mixed = [*rows({FULL: 20.0}, THERE), *rows({BF16: 8.0}, THERE | {"measurement_version": 2})]
    machines = of(rows({FULL: 100.0, BF16: 80.0}), mixed).machines
    assert [row.label for row in machines.rows] == ["full, fp32"]
    assert "1 setting was left out" in machines.why
    other = rows({FULL: 50.0}, {"machine": "third", "conditions_id": "third"}, repeats=2)
    machines = of([*other, *rows(HERE_TIMES)], rows(THERE_TIMES, THERE)).machines
    assert machines.base == "Xeon 2.8 GHz, 2 cores, 16 GiB, 2 threads", "that with the most runs"
    assert "of several machines" in machines.why
