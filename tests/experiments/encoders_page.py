"""The page on encoders, docs/encoders.md:
`python -m tests.experiments.encoders_page docs/encoders.json > docs/encoders.md`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.plan.architectures import ARCHITECTURES
from minbert.model.families import FAMILIES
from tests.experiments.encoder_steps import SETTINGS

ROOT = Path(__file__).parents[2]
LAYERS = ROOT / "tests" / "bench" / "engines" / "golden" / "layer-sets.txt"
STEPS = ROOT / "docs" / "encoder-steps.json"


def page(results: Mapping[str, Any]) -> str:
    """The text of docs/encoders.md, for the results of `tests.experiments.encoders_table`."""
    trained = results["trained"]
    kinds = list(dict.fromkeys(row["architecture"] for row in trained))
    rows = {(row["architecture"], row["setting"]): row for row in trained}
    settings = list(dict.fromkeys(row["setting"] for row in trained))
    names = " | ".join(ARCHITECTURES[kind].name for kind in kinds)
    rule = "|---" * (len(kinds) + 1) + "|"
    scores = "\n".join(
        f"| {setting} | " + " | ".join(_score(rows[kind, setting]) for kind in kinds) + " |"
        for setting in settings
    )
    refused = "\n".join(
        f"- {ARCHITECTURES[row['architecture']].name}: `{row['refused']}`"
        for row in trained
        if "refused" in row
    )
    layers = "\n".join(
        f"| {entry.name} | `{kind}` | {'minbert' if kind in FAMILIES else 'transformers'} | "
        f"{' | '.join(_layers()[kind])} | {'sdpa' if entry.has_sdpa else 'eager'} |"
        for kind, entry in ARCHITECTURES.items()
    )
    steps = json.loads(STEPS.read_text(encoding="utf-8"))
    measured = {(row["kind"], row["mode"], row["amp"]): row for row in steps["rows"]}
    ratios = "\n".join(
        f"| {ARCHITECTURES[kind].name} | "
        + " | ".join(_ratio(measured[kind, *setting]) for setting in SETTINGS)
        + " |"
        for kind in dict.fromkeys(row["kind"] for row in steps["rows"])
    )
    sizes = "\n".join(
        f"| {setting} | "
        + " | ".join(f"{rows[kind, setting].get('adapter', 0):,}" for kind in kinds)
        + " |"
        for setting in settings
        if setting.endswith("-only") and setting.partition(" ")[0] in ("lora", "vera", "ia3")
        and "with" not in setting
    )  # fmt: skip
    done = [row for row in trained if "accuracy" in row]
    worst, moved = min(row["accuracy"] for row in done), max(row["difference"] for row in done)
    parity = results["parity"]
    poolings = list(dict.fromkeys(row["pooling"] for row in parity))
    agreed = {(row["pooling"], row["setting"]): row["difference"] for row in parity}
    agreements = "\n".join(
        f"| {setting} | " + " | ".join(f"{agreed[pool, setting]:.1e}" for pool in poolings) + " |"
        for setting in dict.fromkeys(row["setting"] for row in parity)
    )
    from tests.encoders import HIDDEN

    text = Path(__file__).with_name("pages") / "encoders.md"
    return text.read_text(encoding="utf-8").format(
        versions=results["versions"], worst=worst, moved=moved, names=names, rule=rule,
        scores=scores, refused=refused, layers=layers, width=HIDDEN, sizes=sizes,
        poolings=" | ".join(poolings), poolings_rule="|---" * (len(poolings) + 1) + "|",
        agreements=agreements, ratios=ratios, machine=steps["machine"],
    )  # fmt: skip


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
