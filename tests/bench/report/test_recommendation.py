"""What a recommendation says: the answer, what is missing, and the command that supplies it."""

import json
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from bench.analysis.constraints import parse_where
from bench.analysis.groups import groups
from bench.analysis.power import OF_EXAMPLES, OF_SEEDS, needed_seeds, power_note, shown_size
from bench.analysis.recommendation import candidates_of, recommend
from bench.plan.metrics import METRICS
from bench.report.recommendation import advice, as_json, form_cost, lines
from bench.results.store import Store
from tests.bench.analysis.test_recommendation import FULL, HEAD, LARGE, SHARES, SMALL, group_of
from tests.bench.synthetic_rows import cell, failed_row, synthetic_rows

ROOT = Path(__file__).parents[3]


def said(group, prefer="memory", where="", margin=None):
    return advice(recommend(candidates_of(group, margin), prefer, parse_where(where)))


def text(advice):
    return " ".join([advice.heading, *advice.said])


def test_a_decision_is_one_sentence_with_what_it_saves():
    made = said(group_of())
    assert made.heading.startswith(
        "Use lora rank 1 on attn-only, fp32: 0.63× the memory and 0.71× the time of full "
        "fine-tuning in fp32, accuracy 0."
    )
    assert made.commands == []
    assert "worse than the best of the 4 settings" in text(made)
    assert "the margin is 2 points of accuracy" in text(made)
    assert "Against full fine-tuning in fp32 (0." in text(made)
    assert "examples that took no part in choosing" in text(made)
    assert "1 setting of 4 is shown to be worse" in text(made)
    needs = [row[0] for row in made.table.rows]
    assert needs[0].startswith("recommended, least memory")
    assert "full fine-tuning in fp32" in needs[-1]


@pytest.mark.parametrize(
    ("group", "sentence", "command"),
    [
        (lambda: group_of(seeds=1), "One seed can't show how much of a score is luck.",
         ["--seeds", "3"]),
        (lambda: group_of({FULL: 0.6, SMALL: 0.6}), "The head alone was not run",
         ["--select", "mode=head"]),
        (lambda: group_of({HEAD: 0.7, SMALL: 0.6, FULL: 0.6}), "The head alone scores best",
         ["--epochs", "4"]),
        (lambda: group_of({HEAD: 0.6, SMALL: 0.6, FULL: 0.612}),
         "is not shown to score better than the head alone", ["--epochs", "4"]),
        (lambda: group_of(flags="not_learned"),
         "is not shown to score better than the majority class", ["--epochs", "4"]),
        (lambda: group_of({HEAD: 0.45, SMALL: 0.6, LARGE: 0.6}),
         "What it saves against full fine-tuning in fp32 is not known",
         ["--select", "mode=full amp=off"]),
        (lambda: group_of(kept=False), "The predictions of 4 settings are not kept",
         ["--rerun", "ok"]),
        (lambda: groups([failed_row(cell("full", None, None, "off"), "oom", "no")])[0],
         "No cell ended ok", ["--task", "movies"]),
        (lambda: groups(synthetic_rows(1, init="random"))[0],
         "The weights are random", ["--init", "pretrained"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_with_the_command_that_supplies_it(group, sentence, command):
    made = said(group())
    assert sentence in text(made)
    words = [shlex.split(line) for line in made.commands]
    assert any(tuple(command) in pairwise(line) for line in words)
    assert all(line[:4] == ["python", "-m", "bench.grid", "--grid"] for line in words)


def test_limits_that_nothing_meets_say_which_setting_is_nearest():
    made = said(group_of(), where="memory<=600MiB score>=0.58")
    assert made.heading == "Nothing to recommend yet"
    assert "No setting meets memory<=600MiB score>=0.58. The nearest is lora rank 1" in text(made)
    assert "with memory 639 MiB" in text(made)
    assert made.table is None


def test_the_bottleneck_is_named():
    made = said(group_of(kept=False, examples=1000))
    assert made.heading.startswith("Not decided; the best by score so far is ")
    assert "No setting is shown to be no worse than the best" in text(made)
    assert "The bottleneck is the number of dev examples" in text(made)
    assert "four times out of five" in text(made)


def test_one_point_can_not_be_shown_on_few_examples():
    """Settings that are right on different examples."""
    group = group_of({HEAD: 0.3, FULL: 0.6, SMALL: 0.595}, examples=300)
    made = said(group, margin=0.01)
    assert "On 300 dev examples no number of seeds shows a difference of 1 point" in text(made)


def test_the_data_are_json_without_nan():
    made = said(group_of(peak_rss_mib=None))
    data = json.loads(json.dumps(as_json(made), allow_nan=False))
    assert data["decided"]
    assert data["recommended"]["memory_mib"] is None
    assert data["recommended"]["label"] == "lora rank 1 on attn-only, fp32"
    assert data["recommended"]["score"] == pytest.approx(0.6, abs=0.02)
    assert set(data["alternatives"]) == {"time", "size", "parameters", "score"}
    assert data["sentences"] == list(made.said)


def test_the_lines_have_the_answer_and_the_alternatives():
    printed = lines(said(group_of()))
    assert printed[0].startswith("Use lora rank 1 on attn-only, fp32")
    assert any(line.startswith("best score") or ", best score" in line for line in printed)


@pytest.mark.parametrize(
    ("need", "value", "shown"),
    [("memory", 1645.2, "1,645 MiB"), ("time", 61.2, "61 s"), ("time", 754.0, "12.6 min"),
     ("parameters", 22.7e6, "22.7M"), ("parameters", 1925.0, "1.93k"), ("size", 1.42, "1.42 MB")],
)  # fmt: skip
def test_costs_have_units(need, value, shown):
    assert form_cost(need, value) == shown


def recommend_command(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "bench.recommend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_the_command_decides_from_the_committed_run_and_readme_quotes_it():
    done = recommend_command()
    assert (done.returncode, done.stderr) == (0, "")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    heading = done.stdout.splitlines()[0]
    assert heading in readme.replace("> ", "")


def test_the_command_ends_with_1_undecided_and_2_for_bad_input(tmp_path):
    path = tmp_path / "runs.csv"
    store = Store(path)
    for row in synthetic_rows(68, failures=False):
        store.append(row)
    done = recommend_command("--runs", path, "--json")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert (data["decided"], data["obstacles"]) == (False, ["one seed"])
    for arguments, message in [
        (["--runs", tmp_path / "none.csv"], "no such file"),
        (["--where", "memory<=6"], "memory needs a unit"),
        (["--margin", "2points"], "is not a positive margin"),
        (["--prefer", "speed"], "'speed' is not one of"),
    ]:
        done = recommend_command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_file_without_rows_is_bad_input(tmp_path):
    path = tmp_path / "runs.csv"
    Store(path).append(synthetic_rows(1)[0])
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    done = recommend_command("--runs", path)
    assert done.returncode == 2
    assert "no results; run python -m bench.grid" in done.stderr


def test_the_power_is_told_beforehand():
    cells = [cell(*axes, "off", seed) for axes in SHARES for seed in range(3)]
    [note] = power_note(cells, 1000, METRICS["accuracy"])
    assert note.startswith("3 seeds and 1,000 dev examples are expected to show a difference of ")
    [single] = power_note(cells[::3], 1000, METRICS["accuracy"])
    assert "one seed can't show which setting is best: --seeds 3" in single
    assert power_note(cells, 1000, METRICS["pearson"]) == []
    [poor] = power_note(cells, 200, METRICS["accuracy"])
    assert "--seeds" in poor or "no number of seeds" in poor


def test_needed_seeds_show_the_size():
    for settings in (4, 80):
        needed = needed_seeds(0.02, 1064, settings)
        assert needed is not None
        assert shown_size(1064, needed, settings) <= 0.02
        assert needed == 1 or shown_size(1064, needed - 1, settings) > 0.02
    assert needed_seeds(0.001, 1064, 80) is None
    assert OF_EXAMPLES < OF_SEEDS
