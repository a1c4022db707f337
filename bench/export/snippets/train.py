"""Trains the model of this folder again, with transformers' Trainer and PEFT.

    pip install torch transformers accelerate peft
    python train.py TRAIN --to DIR

TRAIN, such as train.jsonl, has an example on each line, in the order of training: {"a": a text,
"label": its label}, and in pairs of texts also "b". A label is the name of a class or its number,
counted from 0; a list of such, where a text may have several; or, in a regression, a number. Where
words have tags, it has {"tokens": [...], "tags": [...]}, or is a file of CoNLL columns, of which
the first is the word and the last its tag, named as in training.json.

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
from functools import partial
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import cached_file

HERE = Path(__file__).resolve().parent
settings = SimpleNamespace(**json.loads((HERE / "training.json").read_text(encoding="utf-8")))
PROBLEM = settings.labels["problem_type"]
CHUNK = 50  # batches whose examples are sorted by length together
OPTIMIZERS: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "radam": partial(torch.optim.RAdam, decoupled_weight_decay=True),
}


def target_of(label: Any) -> Any:
    """A label as the loss takes it: a class, 0 or 1 for each class, or a standardised number."""
    if PROBLEM == "regression":
        return (label - settings.mean) / settings.std
    classes = settings.labels["label2id"]
    numbers = {**classes, **{number: number for number in classes.values()}}
    if PROBLEM == "single_label_classification" and not settings.by_word:
        return numbers[label]
    if not isinstance(label, list):
        raise TypeError("no list of labels")
    if settings.by_word:
        return [numbers[name] for name in label]
    several = {numbers[name] for name in label}
    return [float(number in several) for number in classes.values()]


def sentences(text: str) -> list[str]:
    """The sentences of CoNLL columns, as JSON."""
    tags, every = settings.labels["label2id"], []
    for block in re.split(r"\n\s*\n", text):
        rows = [row for line in block.split("\n") if (row := line.split())]
        rows = [row for row in rows if row[0][0] != "#" or row[-1] in tags]  # others are comments
        if rows := [row for row in rows if row[0] != "-DOCSTART-"]:
            every.append(
                json.dumps({"tokens": [r[0] for r in rows], "tags": [r[-1] for r in rows]})
            )
    return every


def read_examples(path: Path) -> tuple[list[Any], list[str] | None, list[Any]]:
    """First texts, or the words of texts; second texts if there are any; and labels."""
    rows, unit = [], "line"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        sys.exit(f"{path}: can't be read ({error})")
    lines = text.split("\n")
    if settings.by_word and not text.startswith("{"):
        lines, unit = sentences(text) or [text], "sentence"
    first, label = ("tokens", "tags") if settings.by_word else ("a", "label")
    for place, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows.append((row[first], row.get("b"), target_of(row[label])))
            if settings.by_word and len(row[first]) != len(row[label]):
                raise ValueError("as many tags as words are expected")
        except (ValueError, KeyError, TypeError) as error:
            sys.exit(f"{path}, {unit} {place}: is no example ({error!r}); see the top of train.py")
    texts, second, labels = map(list, zip(*rows, strict=True))
    if None in second and set(second) != {None}:
        sys.exit(f"{path}: has a second text in only some examples")
    return texts, None if None in second else second, labels


def tag_tokens(encoded: Any, tags: list[list[int]]) -> list[list[int]]:
    """Labels of the tokens of texts, or of windows over them: its tag where a word is read."""
    from answers import places_of

    labels = [[-100] * len(ids) for ids in encoded["input_ids"]]
    text_of = encoded.pop("overflow_to_sample_mapping", range(len(labels)))
    for text, of_text in groupby(range(len(labels)), key=lambda window: text_of[window]):
        windows = [*of_text]
        for word, (n, place) in places_of([encoded.word_ids(n) for n in windows]).items():
            labels[windows[n]][place] = tags[text][word]
    return labels


def plan_batches(lengths: Any) -> list[list[int]]:
    """The examples of each step of all epochs, from the number of tokens of each example [N]."""
    size, by_length = settings.batch_size, settings.batching == "by-length"
    batches: list[list[int]] = []
    for epoch in range(settings.epochs):
        rng = np.random.default_rng([settings.seed, epoch])
        order = rng.permutation(len(lengths))
        if by_length:
            chunks = np.split(order, range(CHUNK * size, len(order), CHUNK * size))
            order = np.concatenate([c[np.argsort(lengths[c], kind="stable")] for c in chunks])
        plan = np.split(order, range(size, len(order), size))
        places = rng.permutation(len(plan)) if by_length else range(len(plan))
        batches += [plan[place].tolist() for place in places]
    return batches[: settings.max_steps]


class PooledClassifier(transformers.BertPreTrainedModel):  # type: ignore[misc]
    """A classifier with what BertForSequenceClassification lacks: the mean of all tokens or the
    last state of [CLS] in place of the pooler, and a head of two layers."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width, dropout = config.hidden_size, nn.Dropout(config.classifier_dropout)
        self.bert = transformers.BertModel(config, add_pooling_layer=config.pooling == "pooler")
        hidden = [dropout, nn.Linear(width, width), nn.GELU()] if config.head != "linear" else []
        self.head = nn.Sequential(*hidden, dropout, nn.Linear(width, config.num_labels))
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        output = self.bert(input_ids, attention_mask, token_type_ids)
        pooled = output.pooler_output
        if self.config.pooling == "cls":
            pooled = output.last_hidden_state[:, 0]
        elif pooled is None:
            real = attention_mask[:, :, None]
            pooled = (output.last_hidden_state.float() * real).sum(dim=1) / real.sum(dim=1)
        return SequenceClassifierOutput(logits=self.head(pooled))


def load_model(base: str | None) -> Any:
    """The base with a new head, and adapters where there are any, ready to train."""
    stored = settings.base
    base, revision = (base, None) if base else (stored["name"], stored["revision"])
    try:
        weights = Path(cached_file(base, stored["file"], revision=revision))
    except OSError as error:
        sys.exit(f"the base {base} can't be loaded ({' '.join(str(error).split())})")
    if hashlib.sha256(weights.read_bytes()).hexdigest() != stored["sha256"]:
        sys.exit(f"{weights}: has changed since the training; its SHA-256 was {stored['sha256']}")
    config = transformers.BertConfig.from_pretrained(base, revision=revision)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = settings.dropout
    config.classifier_dropout = settings.dropout
    config.update({**settings.labels, "pooling": settings.pooling, "head": settings.head})
    is_plain = (config.pooling, config.head) == ("pooler", "linear")
    kind = transformers.BertForSequenceClassification if is_plain else PooledClassifier
    if settings.by_word:
        kind = transformers.BertForTokenClassification
        config.architectures = [kind.__name__]  # which predict.py asks for
    model = kind(config)
    pools = config.pooling == "pooler" and not settings.by_word
    model.bert = transformers.BertModel.from_pretrained(
        base, revision=revision, config=config, add_pooling_layer=pools
    ).float()
    generator = torch.Generator().manual_seed(settings.seed)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and is_in(name, settings.trains["head"]):
            nn.init.normal_(layer.weight, 0.0, config.initializer_range, generator)
            nn.init.zeros_(layer.bias)
    whole = settings.trains["head"] + settings.trains["base"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_in(name, whole))
    return add_adapters(model, whole, is_plain) if settings.adapted else model


def add_adapters(model: Any, whole: list[str], is_plain: bool) -> Any:
    """A model with LoRA or DoRA: B is 0, and A is drawn from the seed and the layer's name."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="TOKEN_CLS" if settings.by_word else "SEQ_CLS" if is_plain else None,
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_dora=settings.mode == "dora",
        use_rslora=settings.use_rslora == "on",
        lora_dropout=settings.lora_dropout,
        target_modules=settings.adapted,
        modules_to_save=whole,
    )
    adapted, base = get_peft_model(model, config), settings.base
    config.base_model_name_or_path = base["name"] if base["on_hub"] else f"sha256:{base['sha256']}"
    config.revision = base["revision"]
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            digest = hashlib.sha256(f"{settings.seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            a = layer.lora_A["default"].weight
            nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
            a.requires_grad_(settings.lora_fa == "off")
    return adapted


def is_in(name: str, modules: list[str]) -> bool:
    """Whether a name is that of one of these modules, or of something in it."""
    return any(f".{module}." in f".{name}." for module in modules)


def parameter_groups(model: Any) -> list[dict[str, Any]]:
    """The parameters that train, by rate and decay: matrices are decayed, vectors are not."""
    depth = model.config.num_hidden_layers
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if is_in(name, settings.trains["head"]) else "base"
        rate = settings.rates["adapter" if "lora_" in name else part]
        if "lora_B" in name:
            rate *= settings.lora_plus_ratio
        if layer := re.search(r"encoder\.layer\.(\d+)\.", name):
            rate *= settings.layer_decay ** (depth - 1 - int(layer[1]))
        elif is_in(name, ["embeddings"]):
            rate *= settings.layer_decay**depth
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": r, "weight_decay": d} for (r, d), params in groups.items()]


def rate_factor(step: int, steps: int, steps_per_epoch: int) -> float:
    """The factor on all rates at a step, from 0."""
    rising: int = max(1, round(steps * settings.warmup))
    risen = min(1.0, (step + 1) / rising)
    if settings.schedule == "halving":
        return float(risen * 0.5 ** (step // steps_per_epoch))
    return risen if step < rising else max(0.0, (steps - step) / max(1, steps - rising))


def class_weights(labels: list[Any]) -> Tensor | None:
    """Weights [C] of the classes, inversely proportional to their numbers of examples or words."""
    if settings.class_weights != "balanced" or PROBLEM != "single_label_classification":
        return None
    flat = [tag for tags in labels for tag in tags] if settings.by_word else labels
    counts = np.bincount(flat, minlength=len(settings.labels["label2id"]))
    inverse = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)
    return torch.tensor(len(flat) / np.count_nonzero(counts) * inverse).float()


def contrastive_loss(vectors: Tensor, labels: Tensor) -> Tensor:
    """The supervised contrastive loss [] (arXiv 2004.11362) of vectors [B, H] with classes [B]."""
    unit = nn.functional.normalize(vectors.float(), dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logs = (unit @ unit.T / 0.1).masked_fill(itself, -1e4).log_softmax(dim=1)
    alike = (labels[:, None] == labels) & ~itself
    count = alike.sum(dim=1)
    each = logs.masked_fill(~alike, 0).sum(dim=1) / count.clamp_min(1)
    return -each.sum() / count.count_nonzero().clamp_min(1)


class SameTrainer(transformers.Trainer):  # type: ignore[misc]
    """A Trainer on planned batches, which keeps the loss of every step."""

    def __init__(self, batches: list[list[int]], weights: Tensor | None, **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches
        self.losses: list[Tensor] = []
        self.weights = None if weights is None else weights.to(self.args.device)
        base = self.model.get_base_model() if settings.adapted else self.model
        head = base.dropout if hasattr(base, "dropout") else base.head  # what gets the vectors
        head.register_forward_pre_hook(lambda _, given: setattr(self, "vectors", given[0]))

    def get_train_dataloader(self) -> Any:
        examples, collate = self.train_dataset, self.data_collator
        return DataLoader(examples, batch_sampler=self.batches, collate_fn=collate)

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        labels = inputs.pop("labels")
        logits = model(**inputs).logits.float()
        if PROBLEM == "regression":
            loss = nn.functional.mse_loss(logits[:, 0], labels)
        elif PROBLEM == "multi_label_classification":
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        else:
            loss = nn.functional.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), self.weights,
                label_smoothing=settings.label_smoothing,
            )  # fmt: skip
        if settings.contrastive:
            loss = torch.lerp(loss, contrastive_loss(self.vectors, labels), settings.contrastive)
        self.losses.append(loss.detach())
        return loss


def train(path: Path, to: Path, base: str | None, losses: Path | None) -> None:
    """Train on the examples of a file, and save the model with its tokenizer."""
    if base is None and not settings.base["on_hub"]:
        sys.exit(f"give --base FOLDER, that of the checkpoint {settings.base['name']}")
    if to.exists() and any(to.iterdir()):
        sys.exit(f"--to {to}: is not empty; name a new folder")
    first, second, labels = read_examples(path)
    vocabulary = [*HERE.glob("tokenizer.json"), *HERE.glob("*/tokenizer.json")][0]
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(vocabulary.parent)
    options = {"truncation": True, "max_length": settings.max_length, "return_token_type_ids": True}
    stride, options["is_split_into_words"] = settings.window_stride, settings.by_word
    options |= {"stride": stride, "return_overflowing_tokens": stride > 0}
    encoded = tokenizer(first, second, **options)
    targets = tag_tokens(encoded, labels) if settings.by_word else labels
    columns = {**encoded, "labels": targets}
    examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    collator = (
        "DataCollatorForTokenClassification" if settings.by_word else "DataCollatorWithPadding"
    )
    batches = plan_batches(np.array([len(ids) for ids in encoded["input_ids"]]))
    model = load_model(base)
    optimizer = OPTIMIZERS[settings.optimizer](parameter_groups(model))
    epoch = math.ceil(len(examples) / settings.batch_size)
    factor = partial(rate_factor, steps=len(batches), steps_per_epoch=epoch)
    trainer = SameTrainer(
        batches,
        class_weights(labels),
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(to),
            per_device_train_batch_size=settings.batch_size,
            max_steps=len(batches),  # all epochs are one to the Trainer
            max_grad_norm=1.0,
            seed=settings.seed,
            bf16=settings.amp == "bf16",
            fp16=settings.amp == "fp16",
            use_cpu=not torch.cuda.is_available(),
            logging_steps=50,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=examples,
        data_collator=getattr(transformers, collator)(tokenizer),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
    )
    exact = settings.tf32 == "off"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
    trainer.train()
    if PROBLEM == "regression":  # the last layer, from standardised numbers to labels
        linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        last = [layer for layer in linear if layer.weight.requires_grad][-1]
        last.weight.data *= settings.std
        last.bias.data = last.bias.data * settings.std + settings.mean
    model.save_pretrained(to)
    model.config.save_pretrained(to)
    if settings.adapted:
        (to / "base.json").write_text(json.dumps(settings.base), encoding="utf-8")
    tokenizer.save_pretrained(to)
    if losses is not None:
        lines = [{"step": n, "loss": float(loss)} for n, loss in enumerate(trainer.losses, start=1)]
        losses.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains the model of this folder again.")
    parser.add_argument("train", type=Path, metavar="TRAIN", help="the training examples")
    parser.add_argument("--to", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--base", help="folder of the base, where it is not on the hub")
    parser.add_argument("--losses", type=Path, help="file for the loss of each step, as JSON lines")
    given = parser.parse_args()
    train(given.train, given.to, given.base, given.losses)
