"""The page on encoders, docs/encoders.md:
`python -m tests.experiments.encoders_page docs/encoders.json > docs/encoders.md`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.plan.architectures import ARCHITECTURES

_FUSED = {"deberta": "`in_proj`", "modernbert": "`Wqkv`"}


def page(results: Mapping[str, Any]) -> str:
    """The text of docs/encoders.md, for the results of `tests.experiments.encoders_table`."""
    trained, kinds = results["trained"], list(ARCHITECTURES)
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
        f"| {entry.name} | `{kind}` | {_code(entry.attention)} | {_code(entry.other)} | "
        f"{'sdpa' if entry.has_sdpa else 'eager'} |"
        for kind, entry in ARCHITECTURES.items()
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
    return f"""# Encoders

Engine `transformers` runs any encoder that the library loads. For ten architectures layer sets
are defined, and `python -m tests.experiments.encoders_table` trains each by every method, on
tiny models with
random weights and tokenizers trained on the spot: the class of a text is which of five words it
has (chance is 0.2, and every method has to reach 0.95). No checkpoint that people use was trained
for this page. It was written with {results["versions"]}.

## Scores

Accuracy on 320 other examples when training stopped, at 0.95 or more, or when its steps were used
up. The lowest is {worst:.3f}. Every model was saved as cells save their weights and loaded in
another process: its logits differ by {moved:.1g} at most.

| method and layer set | {names} |
{rule}
{scores}

Refused, as a line before anything runs:

{refused}

LoHa is on all linear layers of the encoder (`"target_modules": "all-linear"`), BOFT on query, key
and value. Gradient checkpointing gives the same gradients for less kept memory; ALBERT and MPNet
have none in transformers, and it is refused there. Of PEFT's other types, those that need more
than a configuration are refused by name: ADALORA, POLY, SHADOW, XLORA, prompt learning, and
LoRA's `eva`, `corda`, `lora_ga` and `loftq`; and LILY, which mixes the texts of a batch.

## Layers

`attn-only` and `attn` adapt the first column, `all-lin-only` and `all-lin` both; the second of
each pair trains the rest of the encoder, too ([methods](methods.md#layers)). Names are those
within a layer. For another architecture `layers = ["query+value"]` names them, and the refusal
lists what there is.

| architecture | model_type | query, key and value | other linear layers | attention `auto` |
|---|---|---|---|---|
{layers}

The architecture's own classification head (`pooling = "pooler"`) is new, is in group `head`,
trains in every mode and is saved: DistilBERT's `pre_classifier`, DeBERTa's pooler and
ModernBERT's `head` are parts of it, and so is a pooler that a BERT checkpoint lacks. A pooler
from the checkpoint (BERT, ALBERT) is part of the encoder. [Golden
files](../tests/bench/engines/golden) list the names of what trains.

## Equal rank is not equal capacity

Parameters of the adapters in these models, which have {_width()} hidden units and two layers:

| rank 4 | {names} |
{rule}
{sizes}

- DeBERTa ({_FUSED["deberta"]}) and ModernBERT ({_FUSED["modernbert"]}) compute query, key and
  value by one layer: its adapter has one A for the three, so the updates of all three lie in the
  same r input directions. ModernBERT's `Wi` likewise holds the gate and its input.
- ALBERT's layers share their weights and so their adapters: one adapter serves all layers,
  however many.
- VeRA's rank is the width of frozen random matrices, which are saved, though they do not train.

Compare by trained parameters or by size on disk, which reports give, rather than by rank.

## Both engines on BERT

Largest difference between the losses of 50 steps in engines `minbert` and `transformers`, without
dropout, in fp32, by pooling; "new": the checkpoint has no pooler.

| method and layer set | {" | ".join(poolings)} |
{"|---" * (len(poolings) + 1)}|
{agreements}
"""


def _score(row: Mapping[str, Any]) -> str:
    return "refused" if "refused" in row else f"{row['accuracy']:.2f}"


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _width() -> int:
    from tests.encoders import HIDDEN

    return HIDDEN


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
