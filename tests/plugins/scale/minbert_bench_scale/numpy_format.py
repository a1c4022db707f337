"""A model for numpy: the weights and the tokenizer, which predict.py beside them reads."""

from pathlib import Path

from bench.export.formats import FORMATS
from bench.export.trained import Trained


def write(trained: Trained, folder: Path) -> None:
    """Write the model with its adapters merged."""
    FORMATS["transformers"].write(trained, folder)
    (folder / "model.safetensors").rename(folder / "encoder.safetensors")
