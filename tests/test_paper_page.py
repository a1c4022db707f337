"""docs/paper.md has the figures of the rows that are committed beside it."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
INTERVAL = re.compile(r"([−+]?\d\.\d+) \(([−+]?\d\.\d+) to ([−+]?\d\.\d+)\)")
Row = Mapping[str, str]


def rows(name):
    with (DOCS / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def latest(name):
    """Of each cell that ended ok the last attempt."""
    return {row["cell_id"]: row for row in rows(name) if row["status"] == "ok"}.values()


def table(*heads):
    """The page's table whose headings begin so, its rows by their first column."""
    blocks = re.findall(r"(?:^\|.*\n)+", (DOCS / "paper.md").read_text(encoding="utf-8"), re.M)
    for block in blocks:
        lines = [[c.strip(" |") for c in line.split(" | ")] for line in block.splitlines()]
        if tuple(lines[0][1 : 1 + len(heads)]) == heads:
            return {line[0]: line[1:] for line in lines[2:]}
    raise AssertionError(f"docs/paper.md has no table with {heads}")


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


def shows(text, value, *ends):
    """Whether a text is a value, and in brackets its interval, as rounded."""
    told = INTERVAL.fullmatch(text)
    figures, wanted = (told.groups(), (value, *ends)) if told else ((text,), (value,))
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


def check_ensembles(told, name, tasks):
    """Compare each row of a table with the CSV's, and return how many figures were compared."""
    found = {(row["task"], row["kind"]): row for row in rows(name) if row["kind"] != "cell alone"}
    count = 0
    for who, kinds in SCORED.items():
        for task, text in zip(tasks, told.get(who, []), strict=False):
            row = next((found[task, kind] for kind in kinds if (task, kind) in found), None)
            if text == "–":
                assert row is None, (who, task)
                continue
            assert row is not None, (who, task)
            shows(text, row["dev_score"], row["dev_ci_low"], row["dev_ci_high"])
            count += 1
    return count


def test_the_ensembles_of_the_papers_tasks_and_of_the_embedded_ones():
    headings = table("SST accuracy", "Quora (16k train) accuracy", "STS Pearson r", "overall")
    tasks = ["sst", "quora", "sts", "sst+quora+sts"]
    assert check_ensembles(headings, "ensemble.csv", tasks) >= 16
    rows_of = {row["task"]: row for row in rows("ensemble.csv") if row["kind"][:8] == "ensemble"}
    gaps, sizes = (
        headings[name] for name in ("better by, example by example", "parameters of all members")
    )
    for task, gap, parameters in zip(tasks, gaps, sizes, strict=True):
        row = rows_of[task]
        shows(gap, row["difference"], row["difference_ci_low"], row["difference_ci_high"])
        assert number(parameters.removesuffix("M")) == round(int(row["parameters"]) / 1e6, 1)
    tasks = ["movies", "amazon", "nyt", "tweets"]
    assert check_ensembles(table(*tasks), "embedded-ensembles.csv", tasks) == 16


def of_modes(where):
    """The cells of docs/paper.csv with some values, by mode and layer set."""
    return {
        (row["mode"], row["layers"]): row
        for row in latest("paper.csv")
        if all(row[name] == value for name, value in where.items())
    }


def test_the_final_comparison():
    told = table("overall", "SST", "Quora (16k train)", "STS r")
    found = of_modes({"task": "multitask", "max_train": ""})
    full = found["full", ""]
    assert len(told) == len(found) == 3
    names = {"full": "full, fp32", "lora": "LoRA r1, bf16", "dora": "DoRA r1, bf16"}
    for (mode, _), row in found.items():
        overall, *parts, memory, time = told[names[mode]][:6]
        check_scores(row, overall, parts)
        check_cost(memory, row, full, "peak_rss_mib")
        check_cost(time, row, full, "ms_per_1k_tokens")


def check_scores(row, overall, parts):
    shows(overall, row["dev_score"], row["dev_ci_low"], row["dev_ci_high"])
    columns = ("dev_sentiment", "dev_paraphrase", "dev_similarity")
    for text, column in zip(parts, columns, strict=True):
        shows(text, row[column])


def check_ratio(text, row, base, column):
    assert number(text) == round(float(row[column]) / float(base[column]), 2), column


def check_cost(text, row, full, column):
    """`2,282 MiB (1.00)`: a cost, and its ratio to full fine-tuning."""
    told = re.fullmatch(r"([\d,]+)(?: MiB)? \((\d\.\d\d)\)", text)
    assert number(told[1]) == round(float(row[column])), text
    check_ratio(told[2], row, full, column)


@pytest.mark.parametrize(("place", "task"), [(0, "sst"), (1, "sts")])
def test_the_part_of_the_papers_grid(place, task):
    told = table("memory, theirs", "memory, here", "time, theirs", "time, here", "score, theirs")
    cap = {"sst": "2000", "sts": "1000"}[task]
    where = {"task": task, "max_train": cap, "batch_size": "64", "rank": "1"}
    found = of_modes(where) | of_modes({**where, "rank": ""})
    full = found["full", ""]
    names = {"lora": "LoRA", "dora": "DoRA"}
    assert len(found) == len(told) == 9
    for (mode, layers), row in found.items():
        who = f"{names[mode]}, {layers}" if layers else mode
        memory, time, score = (told[who][at].split(" / ")[place] for at in (1, 3, 5))
        check_ratio(memory, row, full, "peak_rss_mib")
        check_ratio(time, row, full, "ms_per_1k_tokens")
        shows(score, row["dev_score"])


def test_the_parts_one_at_a_time():
    told = table("overall", "difference", "SST", "Quora (16k train)", "STS r", "memory", "time")
    found = {changed(row): row for row in latest("parts.csv")}
    base = found[""]
    assert len(told) == len(found) == 11
    for who, (overall, gap, *parts, memory, time) in told.items():
        row = base if who.startswith("nothing") else found[who]
        check_scores(row, overall, parts)
        check_ratio(memory, row, base, "peak_rss_mib")
        check_ratio(time, row, base, "ms_per_1k_tokens")
        if row is not base:
            mean = number(gap.partition(" (")[0])
            assert mean == round(float(row["dev_score"]) - float(base["dev_score"]), 3), who


USUAL = {
    "unfreeze": "all", "head": "linear", "optimizer": "adamw", "schedule": "linear",
    "regression_loss": "mse", "encoders": "1", "task_order": "proportional",
}  # fmt: skip


def changed(row):
    """What a row has otherwise than usual, as the page says it."""
    names = [name for name in USUAL if row[name] != USUAL[name]]
    return "".join(f"{name.replace('_', ' ')} {row[name]}" for name in names)
