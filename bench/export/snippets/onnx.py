"""Predictions of the model in this folder, with onnxruntime and tokenizers alone.

    pip install onnxruntime tokenizers numpy
    python predict.py "a text" ["another text" ...]

For a model of pairs, give the two texts of each pair one after the other.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
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
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
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


def labels(folder: Path, rows: Any) -> list[Any]:
    """The class of each row of logits, the list of its classes, or its number."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = list(config["id2label"].values())
    if config["problem_type"] == "regression":
        return [float(row[0]) for row in rows]
    if config["problem_type"] == "multi_label_classification":
        return [[name for name, logit in zip(names, row) if logit > 0] for row in rows]
    return [names[row.argmax()] for row in rows]


def probabilities(folder: Path, rows: Any) -> Any:
    """The probability of each class, [N, C]; the numbers themselves where there are no classes."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["problem_type"] == "regression":
        return rows
    if config["problem_type"] == "multi_label_classification":
        return (1 + np.tanh(rows / 2)) / 2
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main() -> None:
    """Print the label of each text on the command line, and its probabilities."""
    folder = Path(__file__).parent
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", metavar="text")
    given = parser.parse_args()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    texts = given.texts
    if config["text_pairs"]:
        if len(texts) % 2:
            parser.error("the model takes pairs: two texts each")
        texts = list(zip(texts[::2], texts[1::2]))
    rows = logits(load(folder), texts)
    for text, label, row in zip(texts, labels(folder, rows), probabilities(folder, rows)):
        shown = zip(config["id2label"].values(), row)
        print(text, "->", label, *(f"{name}={value:.4g}" for name, value in shown))


if __name__ == "__main__":
    main()
