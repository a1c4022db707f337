"""A checkpoint of transformers: BertForSequenceClassification."""

from pathlib import Path

from bench.export.formats.contents import final_model, labels_of, write_tokenizer
from bench.export.trained import Trained
from minbert.model.checkpoint import save_checkpoint


def write(trained: Trained, folder: Path) -> None:
    """Write the whole model, adapters merged, for AutoModelForSequenceClassification."""
    labels = labels_of(trained)
    if len(labels["id2label"]) == 1:  # to which sentence-transformers' CrossEncoder adds a sigmoid
        labels["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    save_checkpoint(final_model(trained, merge=True), folder, None, labels)
    write_tokenizer(trained, folder)
