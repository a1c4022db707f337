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


def run(session: Any, encoded: Any) -> Any:
    """Logits of encoded texts, [N, C], or [N, S, C] of their tokens."""
    inputs = {
        "input_ids": [text.ids for text in encoded],
        "attention_mask": [text.attention_mask for text in encoded],
        "token_type_ids": [text.type_ids for text in encoded],
    }
    arrays = {name: np.array(ids, dtype=np.int64) for name, ids in inputs.items()}
    return session.run(["logits"], arrays)[0]


def logits(loaded: Any, texts: list[Any]) -> Any:
    """Logits [N, C] of N texts or (text, text) pairs; numbers are in the unit of the labels."""
    tokenizer, session = loaded
    starts = range(0, len(texts), 32)
    return np.concatenate(
        [run(session, tokenizer.encode_batch(texts[start : start + 32])) for start in starts]
    )


def tokens(loaded: Any, texts: list[Any], stride: int) -> Any:
    """For each window over a text, a list of words: the number of the text, logits [S, C] of its
    tokens, and the word of each token. Windows share `stride` tokens; 0: texts are cut."""
    tokenizer, session = loaded
    tokenizer.enable_truncation(tokenizer.truncation["max_length"], stride=stride)
    for start in range(0, len(texts), 32):
        batch = [list(words) for words in texts[start : start + 32]]
        encoded = tokenizer.encode_batch(batch, is_pretokenized=True)
        every = [
            (number, window)
            for number, text in enumerate(encoded, start)
            for window in (text, *(text.overflowing if stride else ()))
        ]
        for first in range(0, len(every), 32):
            numbers, windows = zip(*every[first : first + 32])
            values = run(session, windows)
            yield from zip(numbers, values, (window.word_ids for window in windows))


if __name__ == "__main__":
    from answers import main

    main(load, logits, __doc__, tokens)
