"""Verdicts on claims: what supports, refutes or leaves them undecided, and what a file may say."""

import json
import random

import numpy as np
import pytest
from scipy.special import ndtri

from bench.analysis.claims import Estimate, Verdict, estimate, judge
from bench.common.errors import InputError
from bench.plan.claimsfile import Claim, load
from bench.report.claims import levels, reason
from bench.results.outcomes import no_values
from bench.stats.comparing import holm
from bench.stats.intervals import POWER_Z, quantile
from tests.bench.synthetic_rows import cell, failed_row, result_row

TASKS = ("movies", "nyt")
SCORES = {
    "id": "rank-1", "sentence": "s", "hypothesis": "h.", "scope": "s", "primary": True,
    "runs": ["runs.csv"], "rows": {"mode": "lora", "race": "on"}, "base": {"rank": 8},
    "new": {"rank": 1}, "differ": ["learning_rate"], "tasks": [*TASKS], "column": "dev_score",
    "direction": "at least", "margin": "-1pt", "pairs": 5, "power": "p", "command": "run this",
}  # fmt: skip
COSTS = SCORES | {
    "id": "speed", "rows": {}, "base": {"mode": "full", "amp": "off"},
    "new": {"mode": "lora", "rank": 8, "amp": "bf16"}, "tasks": ["movies"],
    "column": "ms_per_1k_tokens", "direction": "at most", "margin": "0.625x", "pairs": 4,
}  # fmt: skip


def stated(of=SCORES, **changes):
    return Claim.model_validate(of | changes)


def row(task, rank, seed, score, mode="lora", amp="bf16", layers="all-lin-only", **settings):
    """A row of a setting, of full fine-tuning without a rank."""
    made = cell(mode, rank, layers if rank else None, amp, seed, task=task,
                data_digest=f"digest of {task}", **settings)  # fmt: skip
    noise = random.Random(seed)  # noqa: S311
    made = result_row(made, noise, dev_metric="accuracy", dev_score=score)
    return made | {"majority_score": 0.3}


def raced(gap, tasks=TASKS, seeds=range(5), spread=0.002, **settings):
    """Rows of rounds of a race, in which rank 1 scores `gap` more than rank 8."""
    rng, rows = np.random.default_rng(0), []
    for task in tasks:
        for seed in seeds:
            own = {"race": "on", "fold": seed % 5} | settings
            score = 0.6 + 0.05 * rng.normal()
            rows.append(row(task, 8, seed, score, learning_rate=0.002, **own))
            rows.append(row(task, 1, seed, score + gap + spread * rng.normal(),
                            learning_rate=0.004, **own))  # fmt: skip
    return rows


def verdict(rows, claim=None, values_of=no_values):
    claim = claim or stated()
    return judge([claim], [estimate(claim, rows, values_of)])[0]


def in_alternation(ratio, rounds=6):
    """Costs of full fine-tuning and of LoRA, measured in turn."""
    rows = []
    for seed in range(rounds):
        full = row("movies", None, seed, 0.6, "full", "off")
        lora = row("movies", 8, seed, 0.6)
        noise = random.Random(seed).gauss(1, 0.03)  # noqa: S311
        rows += [
            full | {"ms_per_1k_tokens": 40.0, "started_at": f"2026-11-20T10:{2 * seed:02}:00Z"},
            lora | {"ms_per_1k_tokens": 40.0 * ratio * noise,
                    "started_at": f"2026-11-20T10:{2 * seed + 1:02}:00Z"},
        ]  # fmt: skip
    return rows


ALTERNATED = in_alternation(0.5)


@pytest.mark.parametrize(("gap", "expected"), [
    (0.0, "supported"), (-0.03, "refuted"), (-0.0105, "undecided"), (0.04, "supported"),
])  # fmt: skip
def test_rows_flip_a_verdict_on_scores(gap, expected):
    one = verdict(raced(gap))
    assert one.verdict == expected
    assert one.interval.low < gap < one.interval.high


@pytest.mark.parametrize(("ratio", "expected"), [
    (0.5, "supported"), (0.8, "refuted"), (0.63, "undecided"),
])  # fmt: skip
def test_rows_flip_a_verdict_on_costs(ratio, expected):
    one = verdict(in_alternation(ratio), stated(COSTS))
    assert one.verdict == expected
    assert one.interval.low < ratio < one.interval.high
    assert (one.more is not None) == (expected == "undecided")


def test_each_task_has_its_own_variance_and_the_same_weight():
    """A task with more rounds counts no more, and one that varies does not hide in the others."""
    rows = raced(0.0, ["movies"], range(10)) + raced(0.02, ["nyt"])
    assert verdict(rows).interval.value == pytest.approx(0.01, abs=0.002)
    wild = raced(0.0, ["movies"]) + raced(0.0, ["nyt"], spread=0.05)
    assert verdict(wild).verdict is Verdict.UNDECIDED
    assert 4 <= estimate(stated(), wild, no_values).freedom < 4.1


def test_more_trainings_of_folds_reduce_only_what_varies_within_them():
    rows = raced(0.0, seeds=range(10), spread=0.02)
    by_fold = [one | {"dev_score": one.dev_score + 0.05 * one.fold * (one.rank == 1)}
               for one in rows]  # fmt: skip
    other = estimate(stated(pairs=10), by_fold, no_values)
    assert other.error**2 - other.floor == pytest.approx(0.02**2 / 10 / 2, rel=0.5)
    assert other.floor > 0.9 * other.error**2
    single = estimate(stated(), raced(0.0), no_values)
    assert single.floor == single.error**2  # one training of each fold shows nothing of them


def test_more_trainings_do_not_reduce_the_variance_between_examples():
    """Differences that vary between examples alone are the same in each training."""
    claim, rng = stated(rows={"mode": "lora"}, pairs=3, tasks=["movies"]), np.random.default_rng(2)
    of_examples = (rng.random(2000) < 0.04) * rng.choice([-1.0, 1.0], 2000)
    of_examples -= of_examples.mean()

    def judged(gap, of_seeds):
        rows = raced(0.0, ["movies"], range(6), race=None, fold=None)
        kept = {one.cell_id: 0.6 + (one.rank == 1) * (of_examples + gap + of_seeds[one.seed % 2])
                for one in rows}  # fmt: skip
        rows = [one | {"dev_score": float(kept[one.cell_id].mean())} for one in rows]
        estimated = estimate(claim, rows, lambda run: kept[run[0].cell_id])
        return estimated, judge([claim], [estimated])[0]

    estimated, one = judged(-0.007, (0.0, 0.0))
    assert estimated.floor == pytest.approx(0.04 / 2000, rel=0.1)
    assert (one.verdict, one.more) == (Verdict.UNDECIDED, None)
    assert reason(one).endswith(
        "no number of trainings alone is known to decide; more scored examples are needed, too"
    )
    estimated, one = judged(0.008, (-0.02, 0.02))
    assert estimated.floor < estimated.error**2 / 2
    reach = float(quantile(0.03, estimated.freedom)) + POWER_Z
    assert reach * np.sqrt(estimated.floor + (estimated.error**2 - estimated.floor) / one.more) == (
        pytest.approx(0.018)
    )
    assert reason(one).endswith("times the trainings would decide: run this")


def test_of_metrics_without_points_the_margin_is_a_share():
    rows = [one | {"dev_metric": "rmse", "dev_score": 3 - one.dev_score} for one in raced(-0.1)]
    assert "has no points" in verdict(rows).why
    for margin, expected in (("-10%", "supported"), ("-1%", "refuted")):  # 0.1 of 2.4 is 4%
        assert verdict(rows, stated(margin=margin)).verdict == expected


FAILED = [
    failed_row(one.cell, "invalid", "the loss is not finite")
    if (one.task, one.rank, one.seed) == ("nyt", 1, 2) else one
    for one in raced(0.0)
]  # fmt: skip


@pytest.mark.parametrize(("rows", "claim", "why"), [
    (raced(0.0) + raced(0.0, epochs=3), stated(), "movies: 2 pairs of settings, not 1"),
    (raced(0.0, seeds=range(4)), stated(), "movies: 4 of 5 pairs of trainings are there"),
    (raced(0.0, ["movies"]), stated(), "nyt: 0 pairs of settings, not 1"),
    (raced(0.0)[::2], stated(), "no row has mode lora, race on, rank 1"),
    ([], stated(rows={"layers": ["attn", "all-lin"]}), "no row has layers attn or all-lin"),
    (raced(0.0), stated(COSTS), "no row has mode full, amp off"),
    (FAILED, stated(), "nyt: a training of lora rank 1 on all-lin-only, bf16 ended invalid"),
    (raced(0.0), stated(differ=[]),
     "movies: 0 pairs of settings, not 1 (learning_rate is 0.002, in"),
    (raced(0.0, race=None, fold=None), stated(rows={"mode": "lora", "race": ""}),
     "movies: predictions are not kept"),
    (ALTERNATED[::2] + ALTERNATED[1::2][:2], stated(COSTS), "movies: "),
    ([one | {"machine": f"of {one.mode}"} for one in ALTERNATED], stated(COSTS),
     "movies: measured on other machines"),
    ([one | {"started_at": f"2026-11-2{one.mode == 'full':d}T10:{one.seed:02}:00Z"}
      for one in ALTERNATED], stated(COSTS), "movies: not measured in alternation"),
])  # fmt: skip
def test_rows_that_lack_something_decide_nothing_and_say_what(rows, claim, why):
    one = verdict(rows, claim)
    assert one.verdict is Verdict.UNDECIDED
    assert one.interval is None
    assert one.why.startswith(why)


def exact(p_value):
    """An estimate whose p-value of being beyond its limit is this."""
    return Estimate(float(-ndtri(p_value)), 1.0, np.inf, 0.0)


def test_primary_claims_are_judged_by_holm_and_their_bounds_are_wider():
    claims = [stated(id=f"c{i}", primary=i < 4) for i in range(5)]
    p_values = [0.003, 0.0045, 0.007, 0.5, 0.015]
    first, second, third, fourth, alone = judge(claims, [exact(p) for p in p_values])
    assert [one.verdict for one in (first, second, third)] == ["supported"] * 3
    assert [one.alone for one in (first, second, third)] == ["supported", "undecided", "undecided"]
    assert second.interval.low < 0 < first.interval.low
    assert fourth.verdict is Verdict.UNDECIDED
    assert alone.verdict is alone.alone is Verdict.SUPPORTED  # at its own 2.5%
    assert (first.level, alone.level) == (0.0075, 0.05)
    assert "the 4 primary claims" in levels([first, second, third, fourth, alone])
    assert "primary claims" not in levels(judge(claims[4:], [exact(0.004)]))
    others = [stated(id=f"c{i}") for i in range(7)]
    assert judge(others[:1], [exact(0.004)])[0].verdict is Verdict.SUPPORTED
    in_family = judge(others, [exact(0.004), *["no rows"] * 6])
    assert in_family[0].verdict is Verdict.UNDECIDED, "claims without rows count in the family"
    passed = holm(np.array([0.03, 0.001, 0.04, 0.02]), 0.05)
    assert passed.tolist() == [False, True, False, False], "it stops at the first that does not"


def text_of(**changes):
    """A claims file of one claim, with some lines replaced."""
    lines = []
    for name, value in (SCORES | changes).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        lines += [f"{name}.{key} = {json.dumps(of)}".replace(". =", " =") for key, of in inner]
    return "\n".join(["[[claim]]", *lines, ""])


@pytest.mark.parametrize(("text", "message"), [
    (text_of(margin="-1"), "margin '-1' of dev_score has not its unit; write it as -1pt"),
    (text_of(margin="-1.2.3pt"), "margin '-1.2.3pt' of dev_score has not its unit"),
    (text_of(rows={"layers": []}), "the list of layers is empty"),
    (text_of(column="peak_rss_mib"), "of peak_rss_mib has not its unit; write it as 0.5x"),
    (text_of(column="peak_rss_mib", margin="0x"), "has not its unit"),
    (text_of(rows={"rnak": 1}), "no such column; near it are rank"),
    (text_of(base={"rank": "eight"}), "'eight' is no whole number"),
    (text_of(differ=["learning_rat"]), "no such column; near it are learning_rate"),
    (text_of(column="dev_scor"), "claim[0].column: input should be 'dev_score'"),
    (text_of(pairs=2), "claim[0].pairs"),
    (text_of(tasks=[]), "claim[0].tasks"),
    (text_of(aim="more"), "unknown key 'claim[0].aim'; known here: id, sentence"),
    ("more = 1\n" + text_of(), "unknown key 'more'; known here: claim"),
    (text_of() * 2, "two claims have the id rank-1"),
    ("".join(text_of(id=f"c{i}") for i in range(8)), "8 claims are primary; 7 are the most"),
    ("[[claim]", "is not TOML"),
    ("", "claim: field required"),
])  # fmt: skip
def test_a_file_that_states_no_test_is_refused_by_one_line(tmp_path, text, message):
    path = tmp_path / "claims.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_is_read_as_it_is_written_and_values_as_those_of_rows(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(text_of(), encoding="utf-8")
    assert load(path) == [stated()] == [stated(base={"rank": "8"})]
    rows = [one | {"rank": None} if one.rank == 8 else one for one in raced(0.0)]
    assert verdict(rows, stated(base={"rank": ""})).verdict is Verdict.SUPPORTED
