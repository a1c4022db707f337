"""docs/claims.toml, the committed verdicts on it in docs/paper.md, and docs/claims.md."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.analysis.claims import LEVEL
from bench.claims import main
from bench.plan import gridfile
from bench.plan.claimsfile import load
from bench.plan.columns import NAMES
from bench.report.claims import claims_section
from bench.results.outcomes import Outcome, digest_of, outcome_key, outcomes_file, write_outcomes
from bench.results.rowfile import encode, record
from bench.stats.racing import ROUNDS
from tests.bench.synthetic_rows import cell, result_row
from tests.experiments.claims import CLAIMS, PAGES, WORLDS, measure, page, read_figures, verdicts

ROOT = Path(__file__).parents[1]
FIGURES = read_figures()


@pytest.fixture(scope="module")
def judged():
    return verdicts()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_has_the_verdicts_and_the_figures(path, judged):
    text = path.read_text(encoding="utf-8")
    assert text == page(text, FIGURES, judged), "python -m tests.experiments.claims pages"


def test_around_the_verdicts_no_other_number_is_quoted():
    """Neither in the page's section nor where README names it."""
    text = PAGES[0].read_text(encoding="utf-8").partition("\n## Claim by claim\n")[2]
    before, _, after = text.partition("\n## ")[0].split("<!-- verdicts -->")
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    links = "\n".join(line for line in readme if "paper.md" in line or "claims.md" in line)
    for text in (before, after, links):
        text = re.sub(r"\d+\.\d+ overall", "", text)  # the paper's own, of its ensemble
        assert not re.search(r"\d\.\d|\d ?%|\d (points?|times)\b", text)


def test_the_figures_are_of_the_present_scenarios_and_few_families_of_claims_are_wrong():
    assert [one["name"] for one in FIGURES["scenarios"]] == [world.name for world in WORLDS]
    primary = [claim for claim in load(CLAIMS) if claim.primary]
    assert len(primary) == 7
    others = {claim.sentence for claim in load(CLAIMS)} - {claim.sentence for claim in primary}
    assert all(sentence.startswith("Open question") for sentence in others)
    ids = [claim.id for claim in primary]
    assert all([*one["supported"]] == ids for one in FIGURES["scenarios"])
    promised = [one for one in FIGURES["scenarios"] if one["promised"]]
    assert {one["runs"] for one in promised} == {3000, 750}
    assert max(one["wrong"] for one in promised) <= 0.05
    figures = measure(WORLDS[1], 60)
    assert figures == measure(WORLDS[1], 60)
    assert figures["wrong"] <= 0.15
    assert LEVEL < 0.05


def test_the_powers_are_as_stated():
    found = {one["name"]: one["supported"] for one in FIGURES["scenarios"]}
    names = ("no difference, stable tasks", "no difference, one task varies by 2.5 points",
             "0.5 points worse, stable tasks")  # fmt: skip
    for claim in load(CLAIMS):
        if claim.primary:
            stated = [int(text) for text in re.findall(r"(\d+)%", claim.power)]
            if claim.column != "dev_score":
                stated = stated[:1]
            assert stated == [round(100 * found[name][claim.id]) for name in names[: len(stated)]]
            assert len(stated) == (3 if claim.column == "dev_score" else 1)
    assert found[names[0]]["rank-1"] >= 0.95


def test_the_grids_of_the_rows_have_the_settings_of_the_claims():
    """Each claim that has no rows yet is about cells that its grid makes, as often as it needs."""
    for claim in load(CLAIMS):
        name = claim.runs[0].removeprefix("claims-").removesuffix(".csv").removesuffix("-gpu")
        if name == "one-epoch":
            continue
        grid = gridfile.load(str(ROOT / f"tests/experiments/claims/{name}.toml"))
        of_race = ROUNDS * (2 if claim.id == "rank-1" else 1)
        assert (of_race if name == "scores" else grid.settings.seeds) >= claim.pairs
        for side in (claim.base, claim.new):
            wanted = {**claim.rows, **side}
            has = [
                axes for axes in grid.cells
                if wanted["mode"] in axes.mode
                and (name == "updates" or wanted.get("rank") in (axes.rank or [None]))
                and wanted.get("layers") in (axes.layers or [None])
                and {"bf16": "on"}.get(wanted["amp"], "off") in axes.amp
            ]  # fmt: skip
            assert len(has) == 1, (claim.id, side)


EXAMPLE = re.search(r"```toml\n(.*?)```", PAGES[1].read_text(encoding="utf-8"), re.S)[1]


def own_results(folder, gap):
    """Rows and predictions of one's own, in which rank 1 scores `gap` more than rank 8."""
    rng, rows, kept = np.random.default_rng(0), [], {}
    labels = rng.integers(0, 3, 4000)
    for seed in range(3):
        hard = rng.random(4000)
        for rank in (1, 8):
            of = cell("lora", rank, "all-lin-only", "off", seed, task="reviews", max_train=None)
            level = 0.7 + gap * (rank == 1)
            right = np.where(rng.random(4000) < 0.03, rng.random(4000), hard) < level
            row = result_row(of, random.Random(seed))  # noqa: S311
            row |= {"dev_metric": "accuracy", "dev_score": float(right.mean())}
            predicted = np.where(right, labels, (labels + 1) % 3)
            rows.append(row)
            kept[outcome_key(row, "")] = Outcome(predicted, labels, digest_of(labels))
    runs = folder / "runs.csv"
    runs.write_bytes(record(NAMES) + b"".join(map(encode, rows)))
    write_outcomes(outcomes_file(runs), kept)
    return runs


def judge(*words):
    done = CliRunner().invoke(main, [*map(str, words)], standalone_mode=False)
    assert done.exception is None, done.exception
    return done.return_value, done.output


@pytest.mark.parametrize(
    ("gap", "code", "verdict"),
    [(0.0, 0, "supported"), (-0.05, 0, "refuted"), (-0.0105, 1, "undecided")],
)
def test_the_example_of_the_page_judges_results_of_ones_own(tmp_path, gap, code, verdict):
    (tmp_path / "claims.toml").write_text(EXAMPLE, encoding="utf-8")
    runs = own_results(tmp_path, gap)
    assert judge("--claims", tmp_path / "claims.toml", "--json")[0] == code
    found, text = judge("--claims", tmp_path / "claims.toml", "--runs", runs)
    assert found == code
    assert text.startswith(f"rank-1-on-reviews: {verdict}. LoRA of rank 1")
    [one] = json.loads(judge("--claims", tmp_path / "claims.toml", "--json")[1])
    assert (one["claim"], one["verdict"]) == ("rank-1-on-reviews", verdict)
    assert one["interval"]["low"] < gap < one["interval"]["high"]
    [section] = claims_section([runs])
    assert [row[2] for row in section.tables[0].rows] == [verdict]
    outcomes_file(runs).unlink()
    code, text = judge("--claims", tmp_path / "claims.toml")
    assert code == 1
    assert "reviews: predictions are not kept; to decide: python -m bench.grid --grid full" in text


def test_a_report_has_no_claims_about_other_results_and_says_what_is_wrong_with_a_file(tmp_path):
    assert claims_section([]) == claims_section([ROOT / "docs" / "rates.csv"]) == []
    runs = own_results(tmp_path, 0.0)
    assert claims_section([runs]) == []
    (tmp_path / "claims.toml").write_text(EXAMPLE.replace("-1pt", "-1"), encoding="utf-8")
    [section] = claims_section([runs])
    assert "has not its unit; write it as -1pt" in section.lines[0]
