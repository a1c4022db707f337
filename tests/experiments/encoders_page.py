"""The page on encoders, docs/encoders.md:
`python -m tests.experiments.encoders_page docs/encoders.json > docs/encoders.md`."""

import csv
import sys
from pathlib import Path

import pandas as pd

from bench.plan.architectures import ARCHITECTURES
from bench.plan.cell import MINBERT, TRANSFORMERS
from minbert.model.families import FAMILIES
from tests.encoders import HIDDEN
from tests.experiments.encoder_steps import RESULTS, SETTINGS
from tests.experiments.pages import made, markdown_table, read_json

ROOT = Path(__file__).parents[2]
LAYERS = ROOT / "tests" / "bench" / "engines" / "golden" / "layer-sets.txt"
CHECKPOINT = ROOT / "docs" / "mpnet.csv"


def page(results):
    """The text of docs/encoders.md, for the results of `tests.experiments.encoders_table`."""
    trained, steps = pd.DataFrame(results["trained"]), read_json(RESULTS)
    theirs = trained[trained["engine"] == TRANSFORMERS]
    lowest = trained.groupby("setting", sort=False)["accuracy"].min().sort_values(kind="stable")
    scores = {}
    for setting, score in lowest.items():
        scores.setdefault(f"{score:.2f}", []).append(setting)
    measured = {(row["kind"], row["mode"], row["amp"]): row for row in steps["rows"]}
    kinds = dict.fromkeys(row["kind"] for row in steps["rows"])
    parity = pd.DataFrame(results["parity"]).groupby("architecture", sort=False)["difference"].max()
    with CHECKPOINT.open(newline="", encoding="utf-8") as file:
        checkpoint = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    return made(
        Path(__file__).parent / "pages" / "encoders.md.jinja", **results, steps=steps, name=_name,
        moved=trained["difference"].max(), scores=scores, own=FAMILIES, width=HIDDEN,
        refused=[row for row in theirs.to_dict("records") if isinstance(row.get("refused"), str)],
        layers=_layers(),
        ratios={kind: [measured[kind, *one] for one in SETTINGS] for kind in kinds},
        sizes=_sizes(theirs), checkpoint=checkpoint,
        agreements=", ".join(f"{_name(kind)} {value:.1e}" for kind, value in parity.items()),
    )  # fmt: skip


def _name(kind):
    return ARCHITECTURES[kind].name


def _sizes(rows):
    """The parameters of LoRA by layer set and architecture."""
    rows = rows[rows["setting"].isin(["lora attn-only", "lora all-lin-only"])]
    sizes = rows.pivot(index="setting", columns="architecture", values="adapter")
    sizes = sizes.loc[rows["setting"].unique(), rows["architecture"].unique()]
    lines = [[name, *(f"{size:,.0f}" for size in row)] for name, row in sizes.T.items()]
    return markdown_table(["layer set", *map(_name, sizes)], lines).rstrip()


def _layers():
    """Architectures that have the engine, the layers and the attention in common."""
    alike = {}
    lines = (line.partition(": ") for line in LAYERS.read_text(encoding="utf-8").splitlines())
    parts = {kind: text.split("; ")[:2] for kind, _, text in lines}
    for kind, entry in ARCHITECTURES.items():
        names = (part.split(": ")[1].split(", ") for part in parts[kind])
        shown = (", ".join(f"`{name}`" for name in some) for some in names)
        engine = MINBERT if kind in FAMILIES else TRANSFORMERS
        facts = (engine, *shown, "sdpa" if entry.has_sdpa else "eager")
        alike.setdefault(facts, []).append(f"{entry.name} (`{kind}`)")
    return alike


if __name__ == "__main__":
    sys.stdout.write(page(read_json(Path(sys.argv[1]))))
