"""The tables of docs/tokens.md, from the committed rows on words."""

import bench
from bench.results.facts import read_facts
from tests.experiments.pages import DOCS, with_tables

PAGE = DOCS / "tokens.md"
SETS = ("wnut17", "anem")
SETTINGS = {
    "full fine-tuning": ("full", 0), "head": ("head", 0), "LoRA rank 1": ("lora", 1),
    "LoRA rank 8": ("lora", 8), "DoRA rank 1": ("dora", 1), "DoRA rank 8": ("dora", 8),
}  # fmt: skip
BASELINES = {
    "most frequent tag of each word": "majority",
    "linear model on features of words": "tf-idf",
    "linear model on words of the frozen encoder": "frozen",
}


def page(text):
    lines = {
        name: {of: [scores(each, *setting, of) for each in SETS] for of in ("search", "candidate")}
        for name, setting in SETTINGS.items()
    }
    facts = [next(iter(read_facts(DOCS / f"{name}.csv").values())) for name in SETS]
    baselines = {
        name: [one.scores["entity_f1"][0] for each in facts for one in each.references
               if one.name == kind]
        for name, kind in BASELINES.items()
    }  # fmt: skip
    return with_tables(text, __file__, lines=lines, baselines=baselines)


def scores(name, mode, rank, source):
    """Mean entity F1 by learning rate, of a head alone that of the head: of trainings, all with
    three seeds, or of the candidates of the search."""
    rows = bench.load(DOCS / f"{name}.csv").to_pandas().query(
        f"counts and status == 'ok' and grid == 'modes' and mode == '{mode}'"
        f" and rank.fillna(0) == {rank} and learning_rate_source == '{source}'"
    )  # fmt: skip
    by_rate = rows.groupby(rows["learning_rate"].fillna(rows["learning_rate_head"]))["dev_score"]
    if source == "search" and not (by_rate.size() == 3).all():
        raise ValueError(f"{name}, {mode} {rank}: not all have three seeds")
    return by_rate.mean().to_dict()
