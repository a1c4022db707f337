"""Training of every encoder architecture by every method on a task that shows whether both work:
the class of a text is which of five words it has. Writes encoders.json and encoders.md in docs/."""

import json
import tempfile
import time
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file

from adapters.names import LAYER_SETS
from bench.common.errors import InputError
from bench.engines.engine import engine_of
from bench.examples.tokens import tokenizer_of
from bench.plan.architectures import ARCHITECTURES
from bench.plan.cell import MINBERT, OFF, ON, TRANSFORMERS
from bench.plan.job import Job
from bench.plan.models import engine_version
from bench.results.protocol import WEIGHTS
from bench.worker.saving import save_weights
from bench.worker.setup import Split, trained_groups
from bench.worker.weights import load_trained
from minbert.data.batches import collate, plan_epoch
from minbert.model.config import FAMILIES
from minbert.training.evaluation import predict
from minbert.training.losses import CROSS_ENTROPY
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer
from tests.encoders import HIDDEN, KINDS, Checkpoints, job
from tests.experiments import encoder_steps
from tests.experiments.encoder_steps import machine, ours
from tests.experiments.pages import DOCS, ROOT, made, markdown_table, read_json, write_json
from tests.experiments.processes import in_processes

RESULTS, PAGE = DOCS / "encoders.json", DOCS / "encoders.md"
LAYERS = ROOT / "tests/bench/engines/golden/layer-sets.txt"
EVERY = tuple(dict.fromkeys((*KINDS, *FAMILIES)))
ENOUGH = 0.95  # the accuracy that shows that a method trains an architecture; chance is 0.2
PLANTED = ("film", "story", "life", "comedy", "actor")
FILLERS = ("the", "of", "and", "to", "in")
ASKED = 320  # examples of which the accuracy is


def planted(job, count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(PLANTED))
    texts = []
    for label in labels:
        words = list(rng.choice(FILLERS, rng.integers(1, 3)))
        words.insert(int(rng.integers(len(words) + 1)), PLANTED[label])
        texts.append(" ".join(words))
    tokenizer = tokenizer_of(job.cell.engine, Path(job.tokenizer))
    encoded = tokenizer.encode(texts, None, job.cell.max_length)
    return Split((encoded,), labels, labels, CROSS_ENTROPY)


@dataclass(frozen=True)
class Setting:
    """A method on a layer set, with rates at which it learns the task."""

    name: str
    mode: str
    layers: str | None = None
    rate: float = 5e-3
    most: int = 300  # steps after which it is given up
    changes: dict = field(default_factory=dict)
    config: dict | None = None  # of PEFT; `ATTENTION` is an architecture's layers

    @property
    def label(self):
        return " ".join(filter(None, [self.name, self.layers]))

    def job(self, checkpoint):
        """The job of a checkpoint in engine transformers, with this project's kernels."""
        rate = None if self.mode == "head" else self.rate
        values = {**self.changes, "learning_rate": rate, "own_kernels": ON}
        if self.mode != "full":
            values["learning_rate_head"] = 1e-2
        if self.config is not None:
            head = job(checkpoint, "head")
            [attention] = engine_of(head.cell).skeleton(head).blocks.attentions
            ends = [name.rpartition(".")[2] for name in attention]
            own = {k: ends if v == ATTENTION else v for k, v in self.config.items()}
            values["adapter_config"] = json.dumps(own)
        return job(checkpoint, self.mode, self.layers, **values)


ATTENTION = "query, key and value"
LOHA = {"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": "all-linear"}
BOFT = {"peft_type": "BOFT", "boft_block_size": 4, "target_modules": ATTENTION}
SETTINGS = (
    Setting("full", "full", rate=3e-3),
    Setting("head", "head", most=900),
    Setting("bitfit", "bitfit", rate=3e-2),
    *(Setting(mode, mode, layers) for mode in ("lora", "dora") for layers in LAYER_SETS),
    *(Setting("ia3", "ia3", layers, rate=3e-2, most=600) for layers in LAYER_SETS),
    *(Setting("vera", "vera", layers, rate=3e-2) for layers in LAYER_SETS),
    *(Setting("lora with rsLoRA", "lora", layers, changes={"use_rslora": "on"})
      for layers in LAYER_SETS[::2]),
    *(Setting("lora with PiSSA", "lora", layers, changes={"init_lora_weights": "pissa"})
      for layers in LAYER_SETS[::2]),
    Setting("peft: LoHa", "peft", config=LOHA),
    Setting("peft: BOFT", "peft", rate=1e-2, config=BOFT),
)  # fmt: skip


def trainer_of(a_job, steps):
    """The model of a job, ready to train, and its batches without end."""
    cell, device = a_job.cell, torch.device("cpu")
    split = planted(a_job, 640, 0)
    torch.manual_seed(cell.seed)
    model = engine_of(cell).build(a_job)
    trainer = Trainer(
        model, trained_groups(model, cell), losses={"": CROSS_ENTROPY}, amp=cell.amp, device=device,
        schedule=schedule_of("linear", steps, cell.warmup, steps),
    )  # fmt: skip

    def batches():
        for epoch in range(steps):
            rng = np.random.default_rng([cell.seed, epoch])
            for _, indices in plan_epoch({"": split.lengths}, cell.batch_size, rng):
                yield collate(split.texts, split.targets, indices, model.pad_id, device, None, "")

    return trainer, batches()


def losses_of(a_job, steps):
    trainer, batches = trainer_of(a_job, steps)
    return [float(trainer.step(batch)[0]) for batch in islice(batches, steps)]


def logits_of(model, split):
    return predict(model, split.texts, batch_size=160, amp="off", device=torch.device("cpu"))


def learn(a_job, most):
    """Train until the accuracy on other examples is enough, or the steps are at an end."""
    dev = planted(a_job, ASKED, 1)
    trainer, batches = trainer_of(a_job, most)
    steps, accuracy = 0, 0.0
    while accuracy < ENOUGH and steps < most:
        for batch in islice(batches, 60):
            trainer.step(batch)
        steps += 60
        logits = logits_of(trainer.model, dev)
        accuracy = float((logits.argmax(axis=1) == dev.labels).mean())
    return trainer.model, logits, accuracy, steps


def _train(kind, engine, setting, root):
    row = {"engine": engine, "architecture": kind, "setting": setting.label}
    try:
        a_job = setting.job(Checkpoints(root / "checkpoints")(kind))
        a_job = ours(a_job) if engine == MINBERT else a_job
        model, logits, accuracy, steps = learn(a_job, setting.most)
    except InputError as error:
        return row | {"refused": str(error)}
    folder = root.joinpath("saved", *row.values())
    folder.mkdir(parents=True)
    save_weights(model, [p for p in model.parameters() if p.requires_grad], folder)
    (folder / "cell.json").write_text(a_job.to_json())
    save_file({"logits": logits}, folder / "before.safetensors")
    groups = engine_of(a_job.cell).parameter_groups(model)
    row |= {"accuracy": round(accuracy, 4), "steps": steps}
    row |= {group: sum(p.numel() for p in own.values()) for group, own in groups.items()}
    return row | {"bytes": (folder / WEIGHTS).stat().st_size}


POOLINGS = ("pooler", "mean", "cls", "pooler, new")
"""On which engines are compared: `cls`, and a checkpoint without a pooler, are for BERT alone."""


def _compare(kind, pooling, setting, root):
    """The largest difference in losses of 50 steps between minbert and the libraries' own code."""
    new = {"head": "MaskedLM"} if "new" in pooling else {}
    theirs = setting.job(Checkpoints(root / "checkpoints")(kind, **new))
    changes = {"pooling": pooling.partition(",")[0], "own_kernels": OFF}
    theirs = replace(theirs, cell=replace(theirs.cell, **changes))
    one, other = (np.array(losses_of(side, 50)) for side in (theirs, ours(theirs)))
    row = {"architecture": kind, "pooling": pooling, "setting": setting.label}
    return {**row, "difference": float(f"{np.abs(one - other).max():.2g}")}


def measure():
    """Train, compare and load everything, the last in another process than the first."""
    begun = time.monotonic()
    modes = ("full", "head", "bitfit", "lora", "dora")  # of both engines
    both = [one for one in SETTINGS if one.mode in modes and "PiSSA" not in one.name]
    own = [kind for kind in EVERY if kind in FAMILIES]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        checkpoints = Checkpoints(root / "checkpoints")
        for kind in EVERY:
            checkpoints(kind)
        checkpoints("bert", head="MaskedLM")
        calls = [
            *((_train, kind, TRANSFORMERS, one, root) for kind in EVERY for one in SETTINGS),
            *((_train, kind, MINBERT, one, root) for kind in own for one in both),
        ]
        trained = len(calls)
        calls += [
            (_compare, kind, pooling, setting, root)
            for kind in own
            for pooling in (POOLINGS if kind == "bert" else POOLINGS[:2])
            for setting in both
        ]
        rows = list(in_processes(2, calls, torch.set_num_threads, 1))
        for row in rows[:trained]:
            if "accuracy" in row:  # the largest difference of its logits, once it is loaded
                names = (row[name] for name in ("engine", "architecture", "setting"))
                folder = root.joinpath("saved", *names)
                a_job = Job.read(folder)
                before = load_file(folder / "before.safetensors")["logits"]
                logits = logits_of(load_trained(a_job, folder), planted(a_job, ASKED, 1))
                row["difference"] = float(f"{np.abs(logits - before).max():.3g}")
    return {
        "versions": f"{machine()}, {engine_version()}",
        "minutes": round((time.monotonic() - begun) / 60),
        "trained": rows[:trained], "parity": rows[trained:],
    }  # fmt: skip


def page(results):
    trained, steps = pd.DataFrame(results["trained"]), read_json(encoder_steps.RESULTS)
    theirs = trained[trained["engine"] == TRANSFORMERS]
    lowest = trained.groupby("setting", sort=False)["accuracy"].min().sort_values(kind="stable")
    scores = {}
    for setting, score in lowest.items():
        scores.setdefault(f"{score:.2f}", []).append(setting)
    measured = {(row["kind"], row["mode"], row["amp"]): row for row in steps["rows"]}
    kinds = dict.fromkeys(row["kind"] for row in steps["rows"])
    parity = pd.DataFrame(results["parity"]).groupby("architecture", sort=False)["difference"].max()
    checkpoint = pd.read_csv(DOCS / "mpnet.csv", dtype=str, keep_default_na=False)
    checkpoint = checkpoint.query("status == 'ok'").to_dict("records")
    # the parameters of LoRA by layer set and architecture
    lora = theirs[theirs["setting"].isin(["lora attn-only", "lora all-lin-only"])]
    sizes = lora.pivot(index="setting", columns="architecture", values="adapter")
    sizes = sizes.loc[lora["setting"].unique(), lora["architecture"].unique()]
    lines = [[name, *(f"{size:,.0f}" for size in row)] for name, row in sizes.T.items()]
    return made(
        "encoders.md.jinja", **results, steps=steps, name=_name,
        moved=trained["difference"].max(), scores=scores, own=FAMILIES, width=HIDDEN,
        refused=[row for row in theirs.to_dict("records") if isinstance(row.get("refused"), str)],
        layers=_layers(),
        ratios={kind: [measured[kind, *one] for one in encoder_steps.SETTINGS] for kind in kinds},
        sizes=markdown_table(["layer set", *map(_name, sizes)], lines).rstrip(),
        checkpoint=checkpoint,
        agreements=", ".join(f"{_name(kind)} {value:.1e}" for kind, value in parity.items()),
    )  # fmt: skip


def _name(kind):
    return ARCHITECTURES[kind].name


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


@click.command(help=__doc__)
@click.option("--page", "only_page", is_flag=True, help="Only write the page.")
def main(only_page):
    if not only_page:
        write_json(RESULTS, measure())
    PAGE.write_text(page(read_json(RESULTS)))


if __name__ == "__main__":
    main()
