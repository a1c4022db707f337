"""The page on encoders, docs/encoders.md:
`python -m tests.experiments.encoders_page docs/encoders.json > docs/encoders.md`."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.plan.architectures import ARCHITECTURES
from bench.plan.cell import MINBERT, TRANSFORMERS
from minbert.model.families import FAMILIES
from tests.experiments.encoder_steps import SETTINGS

ROOT = Path(__file__).parents[2]
LAYERS = ROOT / "tests" / "bench" / "engines" / "golden" / "layer-sets.txt"
STEPS = ROOT / "docs" / "encoder-steps.json"
CHECKPOINT = ROOT / "docs" / "mpnet.csv"


def page(results: Mapping[str, Any]) -> str:
    """The text of docs/encoders.md, for the results of `tests.experiments.encoders_table`."""
    trained = results["trained"]
    theirs, own = (
        [row for row in trained if row["engine"] == engine] for engine in (TRANSFORMERS, MINBERT)
    )
    scores, own_scores = (
        _scores([{**row, "shown": _score(row)} for row in some]) for some in (theirs, own)
    )
    refused = "\n".join(
        f"- {ARCHITECTURES[row['architecture']].name}: `{row['refused']}`"
        for row in theirs
        if "refused" in row
    )
    steps = json.loads(STEPS.read_text(encoding="utf-8"))
    measured = {(row["kind"], row["mode"], row["amp"]): row for row in steps["rows"]}
    kinds = list(dict.fromkeys(row["kind"] for row in steps["rows"]))

    layers = "\n".join(
        f"| {entry.name} | `{kind}` | {MINBERT if kind in FAMILIES else TRANSFORMERS} | "
        f"{' | '.join(_layers()[kind])} | {'sdpa' if entry.has_sdpa else 'eager'} |"
        for kind, entry in ARCHITECTURES.items()
    )
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
    largest: dict[str, float] = {}
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
        moved=moved, scores=scores, own_scores=own_scores, refused=refused,
        layers=layers, width=HIDDEN, sizes=sizes, agreements=agreements, ratios=ratios,
        to_bert=to_bert, machine=steps["machine"], checkpoint=_checkpoint(),
    )  # fmt: skip


def _table(corner: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What rows show, by setting and architecture."""
    shown = {(row["setting"], row["architecture"]): row["shown"] for row in rows}
    kinds = list(dict.fromkeys(row["architecture"] for row in rows))
    lines = [[corner, *(ARCHITECTURES[kind].name for kind in kinds)], ["---"] * (len(kinds) + 1)]
    settings = dict.fromkeys(row["setting"] for row in rows)
    lines += [[setting, *(shown[setting, kind] for kind in kinds)] for setting in settings]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scores(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of the settings with a score below 1.00, and the names of the others."""
    less = {row["setting"] for row in rows if row["shown"] != "1.00"}
    perfect = dict.fromkeys(row["setting"] for row in rows if row["setting"] not in less)
    table = _table("method and layer set", [row for row in rows if row["setting"] in less])
    return f"{table}\n\n1.00 for each architecture: {', '.join(perfect)}."


def _checkpoint() -> str:
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


def _score(row: Mapping[str, Any]) -> str:
    return "refused" if "refused" in row else f"{row['accuracy']:.2f}"


def _layers() -> dict[str, list[str]]:
    """The names of query, key and value, and of the other linear layers, by architecture."""
    lines = [line.partition(": ") for line in LAYERS.read_text(encoding="utf-8").splitlines()]
    return {
        kind: [
            ", ".join(f"`{name}`" for name in part.split(": ")[1].split(", "))
            for part in text.split("; ")[:2]
        ]
        for kind, _, text in lines
    }


def _ratio(row: Mapping[str, Any]) -> str:
    ratio, low, high = row["time"]
    return f"{ratio:.2f} ({low:.2f} to {high:.2f}), {row['kept']:.2f}"


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
