"""The contents that exported folders of all formats share."""

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from adapters.layer import AdaptedLinear, replace
from bench.export.formats import BASE
from bench.export.trained import Base, Trained
from minbert.files import TOKENIZER_CONFIG, VOCABULARIES, write_json
from minbert.kernels.linear import Linear
from minbert.model.classifier import BertClassifier

_PROBLEMS: Final = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""transformers' names of the kinds of tasks."""


@torch.no_grad()
def final_model(trained: Trained, *, merge: bool) -> BertClassifier:
    """A copy of a trained model whose logits are in the unit of the labels.

    Args:
        trained: the cell.
        merge: whether plain layers of the same function replace those with adapters.
    """
    model = deepcopy(trained.model)
    mean, std = trained.unit
    last = last_layer(model)
    last.weight.mul_(std)
    last.bias.mul_(std).add_(mean)
    for name, layer in list(model.named_modules()) if merge else []:
        if isinstance(layer, AdaptedLinear):
            replace(model, name, _plain(layer))
    return model.eval()


def last_layer(model: BertClassifier) -> nn.Linear:
    """The layer whose outputs are the logits."""
    head = model.classifier
    last: nn.Linear = head if isinstance(head, nn.Linear) else head.get_submodule("out")  # type: ignore[assignment]
    return last


def _plain(layer: AdaptedLinear) -> Linear:
    """A linear layer with the adapted weight."""
    plain = Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.adapted_weight())
    if layer.bias is not None:
        plain.bias = layer.bias
    return plain


def labels_of(trained: Trained) -> dict[str, Any]:
    """The entries of config.json that say what the logits mean.

    `text_pairs`, which only this project's snippets read, says whether an example is two texts.
    """
    names = trained.task.classes or (trained.task.name,)
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": _PROBLEMS[trained.task.kind],
        "text_pairs": trained.dev.text_b is not None,
    }


def write_tokenizer(trained: Trained, folder: Path) -> None:
    """Write the tokenizer, which cuts texts as in training, with no code or settings of its own."""
    text = trained.tokenizer.to_json()
    (folder / VOCABULARIES[0]).write_text(text, encoding="utf-8")
    write_json(
        folder / TOKENIZER_CONFIG,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": trained.job.cell.max_length,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "padding_side": "right",
            "truncation_side": "right",
            **{f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP")},
        },
    )


def base_values(base: Base) -> dict[str, Any]:
    """The content of base.json: the checkpoint by its name, and the digest of its weights."""
    return {name: value for name, value in asdict(base).items() if name != "folder"}


def write_base(base: Base, folder: Path) -> None:
    """Write base.json: the checkpoint that adapters refer to."""
    write_json(folder / BASE, base_values(base))


def reference(base: Base) -> str:
    """The base as adapters name it: its name on the hub, or the digest of its weights."""
    return base.name if base.on_hub else f"sha256:{base.sha256}"
