"""A checkpoint of transformers: BertForSequenceClassification."""

from pathlib import Path

from bench.export.formats.contents import final_model, labels_of, write_tokenizer
from bench.export.trained import Trained
from minbert.model.checkpoint import save_checkpoint


def write(trained: Trained, folder: Path, _merge: bool) -> None:
    """Write the whole model, adapters merged, for AutoModelForSequenceClassification."""
    save_checkpoint(final_model(trained, merge=True), folder, None, labels_of(trained))
    write_tokenizer(trained, folder)
