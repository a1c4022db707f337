"""An adapter of PEFT for BertForSequenceClassification."""

from pathlib import Path

from adapters.peft_format import save_adapter
from bench.export.formats.contents import (
    final_model,
    labels_of,
    reference,
    write_base,
    write_tokenizer,
)
from bench.export.trained import Trained
from minbert.files import CONFIG, write_json
from minbert.model.checkpoint import config_for_export


def write(trained: Trained, folder: Path) -> None:
    """Write the adapter, with all other modules that have trained."""
    model = final_model(trained, merge=False)
    save_adapter(model, folder, reference(trained.base), revision=trained.base.revision)
    write_json(folder / CONFIG, {**config_for_export(model), **labels_of(trained)})
    write_base(trained.base, folder)
    write_tokenizer(trained, folder)
