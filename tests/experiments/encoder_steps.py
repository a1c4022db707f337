"""Training steps of encoders of several architectures, by this project and by transformers + PEFT:
`python -m tests.experiments.encoder_steps` writes docs/encoder-steps.json.

Random weights of minilm's size, the same batches in alternation, one process for a setting. Ratios
of time are this project's over PEFT's, with a 95% interval over repeats; `to_bert` is the ratio
over that of BERT; `kept` is of what the forward pass of the largest batch keeps."""

import tempfile
import time
from dataclasses import replace
from itertools import product
from math import exp, log
from pathlib import Path

import click
import torch

from bench.engines.engine import engine_of
from bench.plan.cell import MINBERT, ON
from bench.stats.intervals import mean_t
from bench.worker.probes.memory import SavedTensors
from bench.worker.setup import trained_groups
from minbert.data.batches import Batch
from minbert.model.config import FAMILIES
from minbert.training.losses import CROSS_ENTROPY
from minbert.training.trainer import Trainer, autocast
from tests.encoders import job, save
from tests.experiments.pages import DOCS, write_json
from tests.experiments.processes import in_processes

REPEATS, LAYERS = 8, 6
KINDS = ("bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "modernbert")
"""Not DeBERTa, whose attention overflows in bf16 in transformers."""
RESULTS = DOCS / "encoder-steps.json"
SETTINGS = tuple((mode, amp) for mode in ("lora", "dora") for amp in ("off", "bf16"))
_SIZES = {
    "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536,
    "embedding_size": 384,
}  # fmt: skip
_OTHER_SIZES = {
    "distilbert": {"dim": 384, "n_heads": 12, "hidden_dim": 1536},
    "electra": {"embedding_size": 128}, "albert": {"embedding_size": 128},
}  # fmt: skip
_TEXTS, _BATCHES, _VOCABULARY = 64, 3, 30_522


def batches(pad):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 61, (_BATCHES * _TEXTS,), generator=generator).sort().values
    made = []
    for own in lengths.split(_TEXTS):
        longest = int(own.max())
        ids = torch.randint(1000, _VOCABULARY, (_TEXTS, longest), generator=generator)
        mask = (torch.arange(longest)[None] < own[:, None]).long()
        labels = torch.randint(0, 5, (_TEXTS,), generator=generator)
        ids = ids.masked_fill(mask == 0, pad)
        made.append(Batch(ids, mask, torch.zeros_like(ids), labels, int(own.sum())))
    return made


def ours(theirs):
    """The job of engine transformers in engine minbert."""
    changes = {"engine_version": None, "attn_implementation": None, "own_kernels": None}
    return replace(theirs, cell=replace(theirs.cell, engine=MINBERT, kernels="fast", **changes))


def measure(kind, mode, amp, repeats=REPEATS, layers=LAYERS):
    """The row of a setting: ratios of ours over transformers + PEFT, in this process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / f"{kind}-tiny"
        sizes = {"num_hidden_layers": layers, **_SIZES, **_OTHER_SIZES.get(kind, {})}
        if kind == "distilbert":
            sizes["n_layers"] = layers
        save(kind, folder, vocab_size=_VOCABULARY, **sizes)
        theirs = job(folder, mode, "all-lin-only", rank=8, alpha=16.0, amp=amp, dropout=0.1)
        own = replace(theirs, cell=replace(theirs.cell, own_kernels=ON))
        trainers, kept = [], []
        for side in (ours(theirs) if kind in FAMILIES else own, theirs):
            model = engine_of(side.cell).build(side).train()
            given = batches(model.pad_id)
            saved, last = SavedTensors(model), given[-1]
            with autocast(amp, last.input_ids.device), saved.counting():
                logits = model(last.input_ids, last.attention_mask, last.token_type_ids)
            logits.float().sum().backward()
            kept.append(saved.mib)
            trainers.append(Trainer(
                model, trained_groups(model, side.cell), amp=amp, device=torch.device("cpu"),
                losses={"": CROSS_ENTROPY}, schedule=lambda _step: 1.0,
            ))  # fmt: skip

        def seconds(trainer):
            start = time.perf_counter()
            for batch in given:
                trainer.step(batch)
            return time.perf_counter() - start

        for trainer in trainers:
            seconds(trainer)
        times = [[], []]
        for repeat in range(repeats):
            for place in (0, 1) if repeat % 2 else (1, 0):
                times[place].append(seconds(trainers[place]))
    ratio = mean_t([log(a / b) for a, b in zip(*times, strict=True)])
    return {
        "kind": kind, "mode": mode, "amp": amp,
        "time": [exp(value) for value in (ratio.value, *(ratio.ends() or ()))],
        "kept": kept[0] / kept[1],
        "ms": [1000 * sorted(some)[len(some) // 2] / _BATCHES for some in times],
    }  # fmt: skip


def machine():
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{torch.get_num_threads()} cores with {capability}, torch {torch.__version__}"


@click.command(help=__doc__)
def main():
    rows, berts = [], {}
    for kind, setting in product(KINDS, SETTINGS):
        [row] = in_processes(1, [(measure, kind, *setting)])
        row["to_bert"] = row["time"][0] / berts.setdefault(setting, row["time"][0])
        rows.append(row)
    write_json(RESULTS, {"machine": machine(), "repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()
