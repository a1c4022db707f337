"""A checkpoint of transformers: the architecture's own model for sequences or tokens."""

from pathlib import Path
from typing import Any

from bench.export.formats.contents import final_model, library_model, write_config, write_tokenizer
from bench.export.trained import Trained
from minbert.model.checkpoint import save_checkpoint
from minbert.model.classifier import BertClassifier


def write(trained: Trained, folder: Path) -> None:
    """Write the whole model, adapters merged, for AutoModelForSequenceClassification or, of
    words, AutoModelForTokenClassification."""
    model = final_model(trained, merge=True)
    others: dict[str, Any] = {}
    if model.heads[""].outputs == 1:  # to which sentence-transformers' CrossEncoder adds a sigmoid
        others["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    if isinstance(model, BertClassifier):
        save_checkpoint(model, folder)
    else:
        library_model(model).save_pretrained(folder, max_shard_size="1TB")  # in one file
    write_config(trained, model, folder, **others)
    write_tokenizer(trained, folder)
