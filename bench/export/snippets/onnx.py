"""Predictions of the model in this folder, with onnxruntime and tokenizers alone.

    pip install onnxruntime tokenizers numpy
    python predict.py "a text" ["another text" ...]

For a model of pairs, give the two texts of each pair one after the other.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer


def load(folder: Path, base: str | None = None, weights: str = "model.onnx") -> Any:
    """The tokenizer and the model, in 32 bits or (weights="model-int8.onnx") in 8."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer.enable_truncation(settings["model_max_length"])
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(settings["pad_token"]))
    return tokenizer, InferenceSession(folder / weights, providers=["CPUExecutionProvider"])


def logits(loaded: Any, texts: list[Any]) -> Any:
    """Logits [N, C] of N texts or (text, text) pairs; numbers are in the unit of the labels."""
    tokenizer, session = loaded
    rows = []
    for start in range(0, len(texts), 32):
        encoded = tokenizer.encode_batch(texts[start : start + 32])
        inputs = {
            "input_ids": [text.ids for text in encoded],
            "attention_mask": [text.attention_mask for text in encoded],
            "token_type_ids": [text.type_ids for text in encoded],
        }
        rows += session.run(
            ["logits"], {name: np.array(ids, dtype=np.int64) for name, ids in inputs.items()}
        )
    return np.concatenate(rows)


if __name__ == "__main__":
    from answers import main

    main(load, logits, __doc__)
