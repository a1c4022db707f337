"""Trains the model of this folder again, with transformers' Trainer and PEFT.

    pip install torch transformers accelerate peft
    python train.py TRAIN.jsonl --to DIR

TRAIN.jsonl has an example on each line, in the order of training: {"a": a text, "label": its label},
and in pairs of texts also "b". A label is the name of a class or its number, counted from 0; a list
of such, where a text may have several; or, in a regression, a number.

The settings are in training.json. The first values of all weights, the batches and their order, the
rates and the loss are those of the training that made this folder. With a dropout of 0, the losses
of all steps are the same too, up to rounding. Dropout draws other random numbers here, so that
losses then differ as they do between seeds. Mixed precision rounds at other places, and weights
that don't train are kept in fp32 here.
"""

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import cached_file

HERE = Path(__file__).resolve().parent
CHUNK = 50  # batches whose examples are sorted by length together
OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "radam": partial(torch.optim.RAdam, decoupled_weight_decay=True),
}

# Examples and batches


def read_examples(path: Path, settings: dict[str, Any]) -> tuple[list[str], Any, np.ndarray]:
    """First texts, second texts or None, and labels [N]; of several labels [N, C], of 0 and 1."""
    numbers = {name: number for number, name in enumerate(settings["classes"])}

    def number_of(label: Any) -> int:
        return label if type(label) is int and label in range(len(numbers)) else numbers[label]

    first, second, labels = [], [], []
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            first.append(row["a"])
            second += [row["b"]] if "b" in row else []
            if settings["problem"] == "regression":
                labels.append((row["label"] - settings["mean"]) / settings["std"])
            elif settings["problem"] == "multi_label_classification":
                given = {number_of(label) for label in row["label"]}
                labels.append([float(number in given) for number in numbers.values()])
            else:
                labels.append(number_of(row["label"]))
        except (ValueError, KeyError, TypeError) as error:
            sys.exit(f"{path}, line {place}: is no example ({error!r}); see the top of train.py")
    if not first or len(second) not in (0, len(first)):
        sys.exit(f"{path}: has no examples, or a second text in only some of them")
    return first, second or None, np.array(labels)


def plan_batches(lengths: np.ndarray, settings: dict[str, Any]) -> list[list[int]]:
    """The examples of each step of all epochs, from the number of tokens of each example."""
    size, by_length = settings["batch_size"], settings["batching"] == "by-length"
    batches: list[list[int]] = []
    for epoch in range(settings["epochs"]):
        rng = np.random.default_rng([settings["seed"], epoch])
        order = rng.permutation(len(lengths))
        if by_length:
            chunks = np.split(order, range(CHUNK * size, len(order), CHUNK * size))
            order = np.concatenate([c[np.argsort(lengths[c], kind="stable")] for c in chunks])
        plan = np.split(order, range(size, len(order), size))
        places = rng.permutation(len(plan)) if by_length else range(len(plan))
        batches += [plan[place].tolist() for place in places]
    return batches[: settings["max_steps"]]


# The model and its first values


class PooledClassifier(BertPreTrainedModel):
    """What BertForSequenceClassification lacks: the mean of all tokens, and a head of two layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        width, dropout = config.hidden_size, config.classifier_dropout
        self.bert = BertModel(config, add_pooling_layer=config.pooling == "pooler")
        hidden = [nn.Dropout(dropout), nn.Linear(width, width), nn.GELU()]
        self.head = nn.Sequential(
            *(hidden if config.head == "nonlinear" else []),
            nn.Dropout(dropout),
            nn.Linear(width, config.num_labels),
        )
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        output = self.bert(input_ids, attention_mask, token_type_ids)
        pooled = output.pooler_output
        if pooled is None:
            real = attention_mask[:, :, None]
            pooled = (output.last_hidden_state.float() * real).sum(dim=1) / real.sum(dim=1)
        return SequenceClassifierOutput(logits=self.head(pooled))


def load_model(base: str, settings: dict[str, Any]) -> nn.Module:
    """The base with a new head, and adapters where there are any, ready to train."""
    expected, revision = settings["base"]["sha256"], settings["base"]["revision"]
    weights = Path(cached_file(base, settings["base"]["file"], revision=revision))
    if hashlib.sha256(weights.read_bytes()).hexdigest() != expected:
        sys.exit(f"{weights}: is another file than in the training, whose SHA-256 was {expected}")
    names = settings["classes"] or ["LABEL_0"]
    config = BertConfig.from_pretrained(base, revision=revision)
    config.update(
        {
            "hidden_dropout_prob": settings["dropout"],
            "attention_probs_dropout_prob": settings["dropout"],
            "classifier_dropout": settings["dropout"],
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": settings["problem"],
            "pooling": settings["pooling"],
            "head": settings["head"],
        }
    )
    is_plain = (config.pooling, config.head) == ("pooler", "linear")
    model = BertForSequenceClassification(config) if is_plain else PooledClassifier(config)
    model.bert = BertModel.from_pretrained(
        base, revision=revision, config=config, add_pooling_layer=config.pooling == "pooler"
    ).float()
    generator = torch.Generator().manual_seed(settings["seed"])
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and is_in(name, settings["trains"]["head"]):
            nn.init.normal_(layer.weight, 0.0, config.initializer_range, generator)
            nn.init.zeros_(layer.bias)
    whole = [*settings["trains"]["head"], *settings["trains"]["base"]]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_in(name, whole))
    return add_adapters(model, whole, is_plain, settings) if settings["adapted"] else model


def add_adapters(
    model: nn.Module, whole: list[str], is_plain: bool, settings: dict[str, Any]
) -> nn.Module:
    """A model with LoRA or DoRA; B is zero, and A is drawn for each layer from its name."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="SEQ_CLS" if is_plain else None,
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        use_dora=settings["mode"] == "dora",
        target_modules=settings["adapted"],
        modules_to_save=whole,
    )
    adapted = get_peft_model(model, config)
    base = settings["base"]
    config.base_model_name_or_path = base["name"] if base["on_hub"] else f"sha256:{base['sha256']}"
    config.revision = base["revision"]
    for name, layer in adapted.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            digest = hashlib.sha256(f"{settings['seed']} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            first = layer.lora_A["default"].weight
            nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
    return adapted


def is_in(name: str, modules: list[str]) -> bool:
    """Whether a name is that of one of these modules, or of something in it."""
    return any(f".{module}." in f".{name}." for module in modules)


# Rates and loss


def parameter_groups(model: nn.Module, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters that train, by rate and decay: matrices are decayed, vectors are not."""
    rates, depth = settings["rates"], model.config.num_hidden_layers
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        head = is_in(name, settings["trains"]["head"])
        rate = rates["adapter" if "lora_" in name else "head" if head else "base"]
        if "lora_B" in name:
            rate *= settings["lora_plus_ratio"]
        if layer := re.search(r"encoder\.layer\.(\d+)\.", name):
            rate *= settings["layer_decay"] ** (depth - 1 - int(layer[1]))
        elif is_in(name, ["embeddings"]):
            rate *= settings["layer_decay"] ** depth
        groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": settings["weight_decay"] * is_matrix}
        for (rate, is_matrix), params in groups.items()
    ]


def schedule(steps: int, epoch: int, settings: dict[str, Any]) -> Callable[[int], float]:
    """The factor on all rates at each step, from 0; `epoch` is the number of steps of one."""
    rising = max(1, round(steps * settings["warmup"]))

    def factor(step: int) -> float:
        if settings["schedule"] == "halving":
            return min(1.0, (step + 1) / rising) * 0.5 ** (step // epoch)
        falling = (steps - step) / max(1, steps - rising)
        return (step + 1) / rising if step < rising else max(0.0, falling)

    return factor


def loss_function(labels: np.ndarray, settings: dict[str, Any]) -> Callable[..., Tensor]:
    """The mean loss of logits [B, C] and labels; balanced classes weigh by the inverse of their
    number of training examples."""
    if settings["problem"] == "regression":
        return lambda logits, numbers: F.mse_loss(logits[:, 0], numbers)
    if settings["problem"] == "multi_label_classification":
        return F.binary_cross_entropy_with_logits
    weights = None
    if settings["class_weights"] == "balanced":
        counts = np.bincount(labels, minlength=len(settings["classes"]))
        inverse = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)
        weights = torch.tensor(len(labels) / np.count_nonzero(counts) * inverse).float()
    return nn.CrossEntropyLoss(weights, label_smoothing=settings["label_smoothing"])


class SameTrainer(Trainer):
    """A Trainer on planned batches, with a loss of its own."""

    def __init__(self, batches: list[list[int]], loss: Callable[..., Tensor], **options: Any) -> None:
        super().__init__(**options)
        self.batches, self.losses = batches, []
        self.loss = loss.to(self.args.device) if isinstance(loss, nn.Module) else loss

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = self.loss(outputs.logits.float(), labels)
        self.losses.append(loss.detach())
        return (loss, outputs) if return_outputs else loss


def train(path: Path, to: Path, base: str | None, losses: Path | None) -> None:
    """Train on the examples of a file, and save the model with its tokenizer."""
    settings = json.loads((HERE / "training.json").read_text(encoding="utf-8"))
    if base is None and not settings["base"]["on_hub"]:
        sys.exit(f"give --base FOLDER, that of the checkpoint {settings['base']['name']}")
    first, second, labels = read_examples(path, settings)
    tokenizer = AutoTokenizer.from_pretrained(HERE)
    encoded = tokenizer(
        first,
        second,
        truncation=True,
        max_length=settings["max_length"],
        return_token_type_ids=True,
    )
    examples = [
        {**{name: values[index] for name, values in encoded.items()}, "labels": label}
        for index, label in enumerate(labels.tolist())
    ]
    batches = plan_batches(np.array([len(ids) for ids in encoded["input_ids"]]), settings)
    model = load_model(base or settings["base"]["name"], settings)
    optimizer = OPTIMIZERS[settings["optimizer"]](parameter_groups(model, settings))
    steps_per_epoch = math.ceil(len(examples) / settings["batch_size"])
    factor = schedule(len(batches), steps_per_epoch, settings)
    trainer = SameTrainer(
        batches,
        loss_function(labels, settings),
        model=model,
        args=TrainingArguments(
            output_dir=str(to),
            max_steps=len(batches),  # all epochs are one to the Trainer
            max_grad_norm=1.0,
            seed=settings["seed"],
            bf16=settings["amp"] == "bf16",
            fp16=settings["amp"] == "fp16",
            use_cpu=not torch.cuda.is_available(),
            logging_steps=50,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
    )
    trainer.train()
    if settings["problem"] == "regression":  # from standardised numbers to those of the labels
        linear = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
        *_, last = (layer for layer in linear if layer.weight.requires_grad)
        last.weight.data *= settings["std"]
        last.bias.data = last.bias.data * settings["std"] + settings["mean"]
    model.save_pretrained(to)
    model.config.save_pretrained(to)
    tokenizer.save_pretrained(to)
    if losses is not None:
        lines = [{"step": n, "loss": float(loss)} for n, loss in enumerate(trainer.losses, start=1)]
        losses.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train", type=Path, metavar="TRAIN.jsonl", help="the training examples")
    parser.add_argument("--to", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--base", help="folder of the base, or another name of it on the hub")
    parser.add_argument("--losses", type=Path, help="file for the loss of each step, as JSON lines")
    given = parser.parse_args()
    train(given.train, given.to, given.base, given.losses)
