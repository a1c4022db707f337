"""The page on encoders, docs/encoders.md:
`python -m tests.experiments.encoders_page docs/encoders.json > docs/encoders.md`."""

import csv
import json
import sys
from pathlib import Path

from bench.plan.architectures import ARCHITECTURES
from bench.plan.cell import MINBERT, TRANSFORMERS
from minbert.model.families import FAMILIES
from tests.experiments.encoder_steps import SETTINGS

ROOT = Path(__file__).parents[2]
LAYERS = ROOT / "tests" / "bench" / "engines" / "golden" / "layer-sets.txt"
STEPS = ROOT / "docs" / "encoder-steps.json"
CHECKPOINT = ROOT / "docs" / "mpnet.csv"


def page(results):
    """The text of docs/encoders.md, for the results of `tests.experiments.encoders_table`."""
    trained = results["trained"]
    theirs = [row for row in trained if row["engine"] == TRANSFORMERS]
    refused = "\n".join(
        f"- {ARCHITECTURES[row['architecture']].name}: `{row['refused']}`"
        for row in theirs
        if "refused" in row
    )
    steps = json.loads(STEPS.read_text(encoding="utf-8"))
    measured = {(row["kind"], row["mode"], row["amp"]): row for row in steps["rows"]}
    kinds = list(dict.fromkeys(row["kind"] for row in steps["rows"]))

    alike = {}
    for kind, entry in ARCHITECTURES.items():
        engine = MINBERT if kind in FAMILIES else TRANSFORMERS
        facts = (engine, *_layers()[kind], "sdpa" if entry.has_sdpa else "eager")
        alike.setdefault(facts, []).append(f"{entry.name} (`{kind}`)")
    layers = "\n".join(f"| {', '.join(some)} | {' | '.join(row)} |" for row, some in alike.items())
    ratios = "\n".join(
        f"| {ARCHITECTURES[kind].name} | "
        + " | ".join(_ratio(measured[kind, *setting]) for setting in SETTINGS)
        + " |"
        for kind in kinds
    )
    most = {
        ARCHITECTURES[kind].name: max(measured[kind, *one]["to_bert"] for one in SETTINGS)
        for kind in kinds
        if kind in FAMILIES and kind != "bert"
    }
    to_bert = ", ".join(f"{ratio:.2f} for {name}" for name, ratio in most.items())
    sizes = _table(
        "layer set",
        [
            {**row, "shown": f"{row.get('adapter', 0):,}"}
            for row in theirs
            if row["setting"].removeprefix("lora ") in ("attn-only", "all-lin-only")
        ],
    )  # fmt: skip
    done = [row for row in trained if "accuracy" in row]
    moved = max(row["difference"] for row in done)
    largest = {}
    for row in results["parity"]:
        kind = row["architecture"]
        largest[kind] = max(row["difference"], largest.get(kind, 0))
    agreements = ", ".join(
        f"{ARCHITECTURES[kind].name} {value:.1e}" for kind, value in largest.items()
    )
    from tests.encoders import HIDDEN

    text = Path(__file__).with_name("pages") / "encoders.md"
    return text.read_text(encoding="utf-8").format(
        versions=results["versions"], minutes=results["minutes"],
        moved=moved, scores=_scores(done), refused=refused,
        layers=layers, width=HIDDEN, sizes=sizes, agreements=agreements, ratios=ratios,
        to_bert=to_bert, machine=steps["machine"], checkpoint=_checkpoint(),
    )  # fmt: skip


def _table(corner, rows):
    """What rows show, by setting and architecture."""
    shown = {(row["setting"], row["architecture"]): row["shown"] for row in rows}
    kinds = list(dict.fromkeys(row["architecture"] for row in rows))
    lines = [[corner, *(ARCHITECTURES[kind].name for kind in kinds)], ["---"] * (len(kinds) + 1)]
    settings = dict.fromkeys(row["setting"] for row in rows)
    lines += [[setting, *(shown[setting, kind] for kind in kinds)] for setting in settings]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scores(rows):
    """The lowest score of each setting over architectures and engines."""
    lowest = {}
    for row in rows:
        lowest[row["setting"]] = min(row["accuracy"], lowest.get(row["setting"], 1))
    by_score = {}
    for setting, score in sorted(lowest.items(), key=lambda item: item[1]):
        by_score.setdefault(f"{score:.2f}", []).append(setting)
    return "\n".join(f"| {score} | {', '.join(names)} |" for score, names in by_score.items())


def _checkpoint():
    """The rows of the checkpoint that people use."""
    with CHECKPOINT.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    return "\n".join(
        f"| {row['mode']} {row['rank'] and 'rank ' + row['rank']} {row['layers']} {row['amp']} | "
        f"{float(row['dev_score']):.3f} ({float(row['dev_ci_low']):.3f} to "
        f"{float(row['dev_ci_high']):.3f}) | {float(row['train_s']):.0f} | "
        f"{float(row['peak_rss_mib']):,.0f} | {int(row['params_trainable']):,} |"
        for row in rows
    ).replace("  ", " ")


def _layers():
    """The names of query, key and value, and of the other linear layers, by architecture."""
    lines = [line.partition(": ") for line in LAYERS.read_text(encoding="utf-8").splitlines()]
    return {
        kind: [
            ", ".join(f"`{name}`" for name in part.split(": ")[1].split(", "))
            for part in text.split("; ")[:2]
        ]
        for kind, _, text in lines
    }


def _ratio(row):
    ratio, low, high = row["time"]
    return f"{ratio:.2f} ({low:.2f} to {high:.2f}), {row['kept']:.2f}"


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
