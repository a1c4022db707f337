"""Pages have what the committed rows beside them say, and each file its measurement version."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

import bench
from bench.machine.conditions import MEASUREMENT_VERSION

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def rows(file):
    path = ROOT / file if file == "runs.csv" else DOCS / file
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def part_of(page, heading):
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


COSTS = ["peak_rss_mib", "ms_per_1k_tokens"]


def filter_of(words):
    """Which rows a line is about, as a query: modes, ranks, layer sets and precisions."""
    mode = re.search(r"full|head|LoRA|DoRA", words)[0].lower()
    query = f"mode == '{mode}' and amp == '{'off' if 'fp32' in words else 'bf16'}'"
    if rank := re.search(r"rank (\d+)", words):
        query += f" and rank == {rank[1]}"
    if layers := re.search(r"`([\w-]+)`", words):
        query += f" and layers == '{layers[1]}'"
    return query


def measured(rows, query):
    """By setting, mean score over seeds and costs as ratios to full fine-tuning in fp32."""
    base = rows.query("mode == 'full' and amp == 'off'").set_index("seed")
    settings = []
    for _, setting in rows.query(query).groupby(["rank", "layers"], dropna=False):
        seeds = setting.set_index("seed")
        logs = np.log(seeds[COSTS].astype(float) / base[COSTS].astype(float)).dropna()
        assert len(logs)
        settings.append([*np.exp(logs.mean()), setting["dev_score"].mean()])
    assert settings, query
    return np.array(settings).T


def shown(values, digits):
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


@pytest.mark.parametrize(("file", "page", "heading"), [
    ("runs.csv", "README.md", "What a run says"),
    ("docs/one-epoch.csv", "docs/results.md", "The full grid at one epoch"),
])  # fmt: skip
def test_a_table_of_settings_has_what_the_rows_say(file, page, heading):
    """Of complete trainings of the grid `full`, without those of a search of rates."""
    rows = bench.load(ROOT / file).to_pandas()
    rows = rows[rows["counts"] & (rows["status"] == "ok") & rows["max_steps"].isna()]
    rows = rows[(rows["grid"] == "full") & (rows["learning_rate_source"] != "candidate")]
    compared = 0
    for line in re.findall(r"^\| (.+) \|$", part_of(page, heading), re.M)[1:]:
        words, *fields = line.split(" | ")
        if "no training" in words or set(words) <= set("-| "):
            continue
        memory, time, score = measured(rows, filter_of(words))
        assert fields == [shown(score, 3), shown(memory, 2), shown(time, 2)], words
        compared += 1
    assert compared >= 6


def test_the_table_of_three_and_five_epochs_has_what_the_rows_say():
    rows = bench.load(DOCS / "epochs.csv").to_pandas().query("status == 'ok'")
    page = part_of("docs/results.md", "Three and five epochs")
    lines = [line.split(" | ") for line in re.findall(r"^\| (\w.+) \|$", page, re.M)]
    assert len(lines) == 9
    for words, *fields in lines:
        query = f"{filter_of(words)} and layer_decay == {0.9 if 'decay' in words else 1}"
        scores = rows.query(query).groupby("epochs")["dev_score"]
        assert (fields, [3, 3]) == ([f"{mean:.3f}" for mean in scores.mean()], [*scores.count()])


VERSIONS = part_of("docs/results.md", "Measurement versions")
MADE_OF = {
    "ensemble.csv": "members.csv", "embedded-ensembles.csv": "embedded-members.csv",
    "updates.csv": "updates-cells.csv",
}  # fmt: skip
"""Files without a column for the version, and the cells that they were made of."""
FILES = ["runs.csv", *sorted(path.name for path in DOCS.glob("*.csv"))]


def stated():
    """The versions that the page has, by file."""
    found = {}
    for line in re.findall(r"^\| (\[.*) \|$", VERSIONS, re.M):
        files, versions, _ = line.split(" | ")
        for file in re.findall(r"\]\((?:\.\./)?([\w.-]+)\)", files):
            found[file] = set(versions.split(", "))
    return found


@pytest.mark.parametrize("file", FILES)
def test_each_file_has_the_versions_that_the_page_says(file):
    named = stated().get(file)
    assert named, f"no line on {file} under Measurement versions"
    if file == "peers.csv":  # its version is that of commits which its page names
        assert set(rows(file)[0]) & {"cell_id", "measurement_version"} == set()
        part = part_of("docs/performance.md", "Against transformers + PEFT")
        assert re.search(r"at commits [0-9a-f]{7} and [0-9a-f]{7}", part)
        assert "](performance.md#against-transformers--peft)" in VERSIONS
        return
    made_of = rows(MADE_OF.get(file, file))
    if file in MADE_OF:
        assert {row["cell_id"] for row in rows(file)} - {""} <= {row["cell_id"] for row in made_of}
    found = {row["measurement_version"] for row in made_of}
    # alternatives.csv is of other programs, too: without grids, perhaps without rows
    assert found <= named if file == "alternatives.csv" else found == named


def test_no_line_is_on_a_file_that_is_not_there_and_each_version_has_its_change():
    assert stated().keys() == set(FILES)
    listed = {int(number) for number in re.findall(r"^\| (\d+) \| \S", VERSIONS, re.M)}
    assert listed >= set(range(1, MEASUREMENT_VERSION + 1))


def test_pages_that_quote_rows_lead_there():
    """Those that link a file of rows, and that is all pages but lists of columns and commands."""
    quoting = set()
    for path in DOCS.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([\w./-]+\.csv)\)", text)
        if {Path(link).name for link in links} & set(FILES) - {"runs.csv"}:
            quoting.add(path.stem)
            assert "#measurement-versions)" in text, path.name
    names = "results paper performance comparing encoders rates alternatives racing tokens fit"
    assert quoting == set(names.split())


def table(*heads):
    """The table of docs/paper.md whose headings begin so, its rows by their first column."""
    for block in re.findall(r"(?:^\|.*\n)+", (DOCS / "paper.md").read_text(encoding="utf-8"), re.M):
        lines = [[c.strip(" |") for c in line.split(" | ")] for line in block.splitlines()]
        if tuple(lines[0][1 : 1 + len(heads)]) == heads:
            return {line[0]: line[1:] for line in lines[2:]}
    raise AssertionError(f"docs/paper.md has no table with {heads}")


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


def check_figures(text, value, *ends):
    """Fail unless a text is a value, and in brackets its interval, as rounded."""
    interval = re.fullmatch(r"([−+]?\d\.\d+) \(([−+]?\d\.\d+) to ([−+]?\d\.\d+)\)", text)
    figures, wanted = (interval.groups(), (value, *ends)) if interval else ((text,), (value,))
    digits = len(figures[0].partition(".")[2])
    assert [*map(number, figures)] == [round(float(of), digits) for of in wanted], text


SCORED = {
    "ensemble": ("ensemble", "ensembles"),
    "its best member alone": ("best member", "best members"),
    "TF-IDF and a linear model": ("tf-idf and a linear model",),
    "cosine of untrained embeddings": ("cosine of sentence embeddings",),
    "average of all cells": ("average of all cells",),
    "transformers + PEFT": ("transformers + PEFT",),
    "best of lower-half": ("best of lower-half",),
}
"""Names of the page, and kinds of the CSV, for a task and for all together."""


@pytest.mark.parametrize(("name", "compared", "tasks", "heads"), [
    ("ensemble.csv", 26, "sst quora sts sst+quora+sts",
     ("SST accuracy", "Quora (16k train) accuracy", "STS Pearson r", "overall")),
    ("embedded-ensembles.csv", 16, "movies amazon nyt tweets",
     ("movies", "amazon", "nyt", "tweets")),
])  # fmt: skip
def test_the_ensembles_of_the_papers_tasks_and_of_the_embedded_ones(name, compared, tasks, heads):
    headings, tasks = table(*heads), tasks.split()
    found = {(row["task"], row["kind"]): row for row in rows(name) if row["kind"] != "cell alone"}
    count = 0
    for who, kinds in SCORED.items():
        for task, text in zip(tasks, headings.get(who, []), strict=False):
            row = next((found[task, kind] for kind in kinds if (task, kind) in found), None)
            if text == "–":
                assert row is None, (who, task)
                continue
            assert row is not None, (who, task)
            check_figures(text, row["dev_score"], row["dev_ci_low"], row["dev_ci_high"])
            count += 1
    assert count == compared
    if name == "ensemble.csv":
        gaps = headings["better by, example by example"]
        rows_of = {task: row for (task, kind), row in found.items() if kind[:8] == "ensemble"}
        sizes = headings["parameters of all members"]
        for task, gap, parameters in zip(tasks, gaps, sizes, strict=True):
            row = rows_of[task]
            ends = row["difference_ci_low"], row["difference_ci_high"]
            check_figures(gap, row["difference"], *ends)
            assert number(parameters.removesuffix("M")) == round(int(row["parameters"]) / 1e6, 1)


def of_modes(**where):
    """The cells of docs/paper.csv with some values, by mode and layer set: their last attempts."""
    ended = {row["cell_id"]: row for row in rows("paper.csv") if row["status"] == "ok"}.values()
    chosen = [row for row in ended if all(row[name] == value for name, value in where.items())]
    return {(row["mode"], row["layers"]): row for row in chosen}


def check_scores(row, overall, parts):
    check_figures(overall, row["dev_score"], row["dev_ci_low"], row["dev_ci_high"])
    columns = ("dev_sentiment", "dev_paraphrase", "dev_similarity")
    for text, column in zip(parts, columns, strict=True):
        check_figures(text, row[column])


def check_ratios(row, base, memory, time):
    for text, column in zip((memory, time), COSTS, strict=True):
        assert number(text) == round(float(row[column]) / float(base[column]), 2), column


def test_the_final_comparison():
    lines = table("overall", "SST", "Quora (16k train)", "STS r")
    found = of_modes(task="multitask", max_train="")
    assert len(lines) == len(found) == 3
    names = {"full": "full, fp32", "lora": "LoRA r1, bf16", "dora": "DoRA r1, bf16"}
    for (mode, _), row in found.items():
        overall, *parts, memory, time = lines[names[mode]][:6]
        check_scores(row, overall, parts)
        # such as `2,282 MiB (1.00)`: a cost, and its ratio to full fine-tuning
        costs = [re.fullmatch(r"([\d,]+)(?: MiB)? \((\d\.\d\d)\)", text) for text in (memory, time)]
        assert [number(cost[1]) for cost in costs] == [round(float(row[name])) for name in COSTS]
        check_ratios(row, found["full", ""], *(cost[2] for cost in costs))


@pytest.mark.parametrize(("place", "task", "cap"), [(0, "sst", "2000"), (1, "sts", "1000")])
def test_the_part_of_the_papers_grid(place, task, cap):
    lines = table("memory, theirs", "memory, here", "time, theirs", "time, here", "score, theirs")
    where = {"task": task, "max_train": cap, "batch_size": "64"}
    found = of_modes(**where, rank="1") | of_modes(**where, rank="")
    names = {"lora": "LoRA", "dora": "DoRA"}
    assert len(found) == len(lines) == 9
    for (mode, layers), row in found.items():
        who = f"{names[mode]}, {layers}" if layers else mode
        *costs, score = (lines[who][at].split(" / ")[place] for at in (1, 3, 5))
        check_ratios(row, found["full", ""], *costs)
        check_figures(score, row["dev_score"])


USUAL = {
    "unfreeze": "all", "head": "linear", "optimizer": "adamw", "schedule": "linear",
    "regression_loss": "mse", "encoders": "1", "task_order": "proportional",
}  # fmt: skip


def test_the_parts_one_at_a_time():
    lines = table("overall", "difference", "SST", "Quora (16k train)", "STS r", "memory", "time")
    found = {}
    for row in rows("parts.csv"):
        changed = [name for name in USUAL if row[name] != USUAL[name]]
        who = "".join(f"{name.replace('_', ' ')} {row[name]}" for name in changed)
        found |= {who: row} if row["status"] == "ok" else {}
    base = found[""]
    assert len(lines) == len(found) == 11
    for who, (overall, gap, *parts, memory, time) in lines.items():
        row = base if who.startswith("nothing") else found[who]
        check_scores(row, overall, parts)
        check_ratios(row, base, memory, time)
        if row is not base:
            mean = number(gap.partition(" (")[0])
            assert mean == round(float(row["dev_score"]) - float(base["dev_score"]), 3), who
