"""Training of every encoder architecture by every method on a task that shows whether both work:
the class of a text is which of five words it has.

`python -m tests.experiments.encoders_table` trains all of them, loads what they saved elsewhere,
compares both engines on BERT, and writes docs/encoders.json and docs/encoders.md. On two idle cores
it takes some minutes.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from adapters.names import LAYER_SETS
from bench.common.errors import InputError
from bench.engines.engine import engine_of
from bench.examples.tokenizers import tokenizer_of
from bench.plan.cell import MINBERT
from bench.plan.job import Job
from bench.plan.models import engine_version
from bench.results.protocol import WEIGHTS
from bench.worker.saving import save_weights
from bench.worker.setup import Split, trained_groups
from bench.worker.trained import load_trained
from minbert.data.batches import Batch, collate, plan_epoch
from minbert.model.classifier import Classifier
from minbert.training.evaluation import predict
from minbert.training.losses import CROSS_ENTROPY
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer
from tests.encoders import KINDS, Checkpoints, job
from tests.experiments.encoders_page import page

ROOT: Final = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "docs/encoders.json", ROOT / "docs/encoders.md"
ENOUGH: Final = 0.95
"""The accuracy that shows that a method trains an architecture; chance is 0.2."""
_ROUND: Final = 60
"""Steps between two looks at the accuracy."""

PLANTED: Final = ("film", "story", "life", "comedy", "actor")
FILLERS: Final = ("the", "of", "and", "to", "in")
ASKED: Final = 320  # examples of which the accuracy is


def planted(job: Job, count: int, seed: int) -> Split:
    """Examples of the task, tokenised for a job."""
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
    changes: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None  # of PEFT; `ATTENTION` is an architecture's layers

    @property
    def label(self) -> str:
        return " ".join(filter(None, [self.name, self.layers]))

    def job(self, checkpoint: Path) -> Job:
        """The job of a checkpoint."""
        rate = None if self.mode == "head" else self.rate
        values: dict[str, Any] = {**self.changes, "learning_rate": rate}
        if self.mode != "full":
            values["learning_rate_head"] = 1e-2
        if self.config is not None:
            head = job(checkpoint, "head")
            [attention] = engine_of(head.cell).skeleton(head).blocks.attentions
            ends = [name.rpartition(".")[2] for name in attention]
            own = {k: ends if v == ATTENTION else v for k, v in self.config.items()}
            values["adapter_config"] = json.dumps(own)
        return job(checkpoint, self.mode, self.layers, **values)


ATTENTION: Final = "query, key and value"
LOHA: Final = {"peft_type": "LOHA", "r": 4, "alpha": 8, "target_modules": "all-linear"}
BOFT: Final = {"peft_type": "BOFT", "boft_block_size": 4, "target_modules": ATTENTION}
RECIPES: Final = (("rsLoRA", "use_rslora", "on"), ("PiSSA", "init_lora_weights", "pissa"))
SETTINGS: Final = (
    Setting("full", "full", rate=3e-3),
    Setting("head", "head", most=900),
    Setting("bitfit", "bitfit", rate=3e-2),
    *(Setting("lora", "lora", layers) for layers in LAYER_SETS),
    *(Setting("dora", "dora", layers) for layers in LAYER_SETS),
    *(Setting("ia3", "ia3", layers, rate=3e-2, most=600) for layers in LAYER_SETS),
    *(Setting("vera", "vera", layers, rate=3e-2) for layers in LAYER_SETS),
    *(
        Setting(f"lora with {name}", "lora", layers, changes={key: value})
        for name, key, value in RECIPES
        for layers in LAYER_SETS[::2]
    ),
    Setting("peft: LoHa", "peft", config=LOHA),
    Setting("peft: BOFT", "peft", rate=1e-2, config=BOFT),
)


def trainer_of(a_job: Job, steps: int) -> tuple[Trainer, Iterator[Batch]]:
    """The model of a job, ready to train, and its batches without end."""
    cell, device = a_job.cell, torch.device("cpu")
    split = planted(a_job, 640, 0)
    torch.manual_seed(cell.seed)
    model = engine_of(cell).build(a_job)
    schedule = schedule_of("linear", steps, cell.warmup, steps)
    trainer = Trainer(
        model, trained_groups(model, cell), losses={"": CROSS_ENTROPY}, schedule=schedule,
        amp=cell.amp, device=device,
    )  # fmt: skip

    def batches() -> Iterator[Batch]:
        for epoch in range(steps):
            rng = np.random.default_rng([cell.seed, epoch])
            for _, indices in plan_epoch({"": split.lengths}, cell.batch_size, rng):
                yield collate(split.texts, split.targets, indices, model.pad_id, device, None, "")

    return trainer, batches()


def losses_of(a_job: Job, steps: int) -> list[float]:
    """The losses of some steps on the task."""
    trainer, batches = trainer_of(a_job, steps)
    return [float(trainer.step(batch)[0]) for batch in islice(batches, steps)]


def logits_of(model: Classifier, split: Split) -> NDArray[np.float32]:
    usual: dict[str, Any] = {"batch_size": 160, "amp": "off", "device": torch.device("cpu")}
    return predict(model, split.texts, pad_id=model.pad_id, **usual)


@dataclass(frozen=True)
class Learned:
    """What came of a training: a model, its accuracy on other examples, and the steps taken."""

    model: Classifier
    accuracy: float
    steps: int
    logits: NDArray[np.float32]


def learn(setting: Setting, checkpoint: Path) -> Learned:
    """Train until the accuracy is enough, or the steps are at an end."""
    a_job = setting.job(checkpoint)
    dev = planted(a_job, ASKED, 1)
    trainer, batches = trainer_of(a_job, setting.most)
    steps, accuracy = 0, 0.0
    while accuracy < ENOUGH and steps < setting.most:
        for batch in islice(batches, _ROUND):
            trainer.step(batch)
        steps += _ROUND
        logits = logits_of(trainer.model, dev)
        accuracy = float((logits.argmax(axis=1) == dev.labels).mean())
    return Learned(trainer.model, accuracy, steps, logits)


def save(learned: Learned, a_job: Job, folder: Path) -> None:
    """Save what trained, with the job and the logits, for `load`."""
    folder.mkdir(parents=True)
    trained = [p for p in learned.model.parameters() if p.requires_grad]
    save_weights(learned.model, trained, folder)
    (folder / "cell.json").write_text(a_job.to_json())
    save_file({"logits": learned.logits}, folder / "before.safetensors")


def load(root: Path) -> None:
    """Load every model that was saved in a folder, and save the largest difference of its
    logits."""
    for folder in sorted(path.parent for path in root.glob("*/*/cell.json")):
        a_job = Job.read(folder)
        model = load_trained(a_job, folder)
        before = load_file(folder / "before.safetensors")["logits"]
        difference = np.abs(logits_of(model, planted(a_job, ASKED, 1)) - before).max()
        (folder / "difference.txt").write_text(f"{difference:.3g}")


def differences(root: Path) -> dict[tuple[str, str], float]:
    """The same in another process, by architecture and setting."""
    module = "tests.experiments.encoders_table"
    subprocess.run([sys.executable, "-m", module, "--load", root], check=True)
    files = root.glob("*/*/difference.txt")
    return {(path.parts[-3], path.parts[-2]): float(path.read_text()) for path in files}


def ours(theirs: Job) -> Job:
    """The same job in engine minbert."""
    changes = {"engine": MINBERT, "engine_version": None, "attn_implementation": None}
    return replace(theirs, cell=replace(theirs.cell, kernels="fast", **changes))


def _train_all(kind: str, root: Path) -> list[dict[str, Any]]:
    """Train one architecture by every method."""
    torch.set_num_threads(1)
    checkpoint = Checkpoints(root / "checkpoints")(kind)
    rows = []
    for setting in SETTINGS:
        row: dict[str, Any] = {"architecture": kind, "setting": setting.label}
        rows.append(row)
        try:
            learned = learn(setting, checkpoint)
        except InputError as error:
            row["refused"] = str(error)
            continue
        a_job = setting.job(checkpoint)
        folder = root / "saved" / kind / setting.label
        save(learned, a_job, folder)
        groups = engine_of(a_job.cell).parameter_groups(learned.model)
        row |= {"accuracy": round(learned.accuracy, 4), "steps": learned.steps}
        row |= {group: sum(p.numel() for p in own.values()) for group, own in groups.items()}
        row["bytes"] = (folder / WEIGHTS).stat().st_size
        sys.stderr.write(f"{kind} {setting.label}: {learned.accuracy:.3f}\n")
    return rows


PARITY: Final = ("pooler", "mean", "cls", "pooler, new")
"""Poolings on which engines are compared; the last of a checkpoint without one."""
_BOTH: Final = ("full", "head", "bitfit", "lora", "dora")  # modes of both engines


def _compare(pooling: str, root: Path) -> list[dict[str, Any]]:
    """Losses of 50 steps in both engines, by every method that both have."""
    torch.set_num_threads(1)
    new = {"head": "MaskedLM"} if "new" in pooling else {}
    checkpoint = Checkpoints(root / pooling)("bert", **new)
    rows = []
    for setting in SETTINGS:
        if setting.mode not in _BOTH or "PiSSA" in setting.name:
            continue
        theirs = setting.job(checkpoint)
        theirs = replace(theirs, cell=replace(theirs.cell, pooling=pooling.split(",")[0]))
        one, other = (np.array(losses_of(side, 50)) for side in (theirs, ours(theirs)))
        largest = float(f"{np.abs(one - other).max():.2g}")
        rows.append({"pooling": pooling, "setting": setting.label, "difference": largest})
    return rows


def measure() -> dict[str, Any]:
    """Train, load and compare everything."""
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2, mp_context=spawn) as pool:
        root = Path(name)
        compared = [pool.submit(_compare, pooling, root) for pooling in PARITY]
        trained = [pool.submit(_train_all, kind, root) for kind in KINDS]
        rows = [row for future in trained for row in future.result()]
        after = differences(root / "saved")
        for row in rows:
            if "accuracy" in row:
                row["difference"] = after[row["architecture"], row["setting"]]
        parity = [row for future in compared for row in future.result()]
    versions = f"torch {torch.__version__}, {engine_version()}"
    return {"versions": versions, "trained": rows, "parity": parity}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load(Path(sys.argv[2]))
    else:
        results = measure()
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        PAGE.write_text(page(results))
