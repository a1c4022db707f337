"""Training steps of encoders of several architectures, by this project and by transformers + PEFT:

    python -m tests.experiments.encoder_steps [--only electra,mpnet]

writes docs/encoder-steps.json; with `--only` the other architectures' rows stay as they are there.
Random weights of minilm's size, the same batches in alternation, one process for a setting. Ratios
of time are this project's over PEFT's, with a 95% interval over repeats; `to_bert` is the ratio
over that of BERT, which is a part of every run; `kept` is of what the forward pass of the largest
batch keeps. An architecture takes about 4 minutes on two cores.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from math import exp, log
from pathlib import Path

from bench.common.messages import echo

REPEATS = 8
BERT = "bert"
KINDS = (
    BERT, "roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "modernbert",
)  # fmt: skip
"""Not DeBERTa, whose attention overflows in bf16 in transformers."""
RESULTS = Path(__file__).parents[2] / "docs" / "encoder-steps.json"
SETTINGS = tuple((mode, amp) for mode in ("lora", "dora") for amp in ("off", "bf16"))
_SIZES = {
    "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "embedding_size": 384,
}  # fmt: skip
_OTHER_SIZES = {
    "distilbert": {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536},
    "electra": {"embedding_size": 128}, "albert": {"embedding_size": 128},
}  # fmt: skip
_TEXTS = 64
_BATCHES = 3
_VOCABULARY = 30_522


def batches(pad):
    """Batches of 64 texts of similar length, of 6 to 60 tokens."""
    import torch

    from minbert.data.batches import Batch

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


def measure(kind, mode, amp, repeats=REPEATS):
    """The ratios of a setting, ours over transformers + PEFT, in this process."""
    import torch

    from bench.engines.engine import engine_of
    from bench.worker.probes.memory import SavedTensors
    from bench.worker.setup import trained_groups
    from minbert.model.families import FAMILIES
    from minbert.training.trainer import Trainer, autocast
    from tests.encoders import job, save

    ours = {"own_kernels": "on"}
    if kind in FAMILIES:
        ours = {
            "engine": "minbert", "engine_version": None, "kernels": "fast", "own_kernels": None,
            "attn_implementation": None,
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / f"{kind}-tiny"
        sizes = {**_SIZES, **_OTHER_SIZES.get(kind, {})}
        save(kind, folder, vocab_size=_VOCABULARY, **sizes)
        theirs = job(folder, mode, "all-lin-only", rank=8, alpha=16.0, amp=amp, dropout=0.1)
        trainers, kept = [], []
        for changes in (ours, {}):
            own = replace(theirs, cell=replace(theirs.cell, **changes))
            model = engine_of(own.cell).build(own).train()
            given = batches(model.pad_id)
            saved, last = SavedTensors(model), given[-1]
            with autocast(amp, last.input_ids.device), saved.counting():
                logits = model(last.input_ids, last.attention_mask, last.token_type_ids)
            logits.float().sum().backward()
            kept.append(saved.mib)
            trainers.append(
                Trainer(
                    model, trained_groups(model, own.cell), amp=amp, device=torch.device("cpu"),
                    losses={"": "cross-entropy"}, schedule=lambda _step: 1.0,
                )
            )  # fmt: skip

        def seconds(trainer):
            start = time.perf_counter()
            for batch in given:
                trainer.step(batch)
            return time.perf_counter() - start

        for trainer in trainers:
            seconds(trainer)
        times = [[], []]
        for repeat in range(int(repeats)):
            for place in (0, 1) if repeat % 2 else (1, 0):
                times[place].append(seconds(trainers[place]))
    return {"time": interval(*times), "kept": kept[0] / kept[1], "ms": [_ms(one) for one in times]}


def interval(ours, theirs):
    """The ratio of times and the ends of its interval."""
    from bench.stats.intervals import mean_t

    result = mean_t([log(a / b) for a, b in zip(ours, theirs, strict=True)])
    return [exp(value) for value in (result.value, *(result.ends() or ()))]


def _ms(seconds):
    return 1000 * sorted(seconds)[len(seconds) // 2] / _BATCHES


def machine():
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{torch.get_num_threads()} cores with {capability}, torch {torch.__version__}"


def measure_all(kinds):
    """The rows of some architectures, the first of which is BERT."""
    cells = [(kind, *setting) for kind in kinds for setting in SETTINGS]
    berts = {}
    begun = time.monotonic()
    for done, cell in enumerate(cells):
        command = [sys.executable, "-m", "tests.experiments.encoder_steps", *cell]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        kind, mode, amp = cell
        row = {"kind": kind, "mode": mode, "amp": amp, **json.loads(run.stdout)}
        ratio, low, high = row["time"]
        row["to_bert"] = ratio / berts.setdefault((mode, amp), ratio)
        yield row
        left = (time.monotonic() - begun) / (done + 1) * (len(cells) - done - 1) / 60
        echo(
            f"cell {done + 1} of {len(cells)}, about {left:.0f} min left: {' '.join(cell)} "
            f"{ratio:.2f} ({low:.2f} to {high:.2f}), kept {row['kept']:.2f}",
            err=True,
        )


def main(only):
    chosen = KINDS if only is None else (BERT, *only.split(","))
    if unknown := set(chosen) - set(KINDS):
        sys.exit(f"--only: no steps of {', '.join(unknown)}; there are {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS if kind in chosen]
    result = {"machine": machine(), "repeats": REPEATS}
    before = []
    if only is not None:
        earlier = json.loads(RESULTS.read_text(encoding="utf-8"))
        before = earlier.pop("rows")
        if earlier != result:
            sys.exit(f"{RESULTS} is of {earlier}, and this is {result}: leave out --only")
    rows = list(measure_all(kinds))
    rows += [row for row in before if row["kind"] not in kinds]
    rows.sort(key=lambda row: KINDS.index(row["kind"]))
    RESULTS.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[3:]:
        sys.stdout.write(json.dumps(measure(*sys.argv[1:])))
    else:
        main(sys.argv[2] if sys.argv[1:2] == ["--only"] else None)
