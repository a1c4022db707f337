"""Answers in words: what the logits of predict.py, which is next to this file, mean."""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def read_config(folder: Path) -> dict[str, Any]:
    """The names of the classes, and the kind of problem."""
    path = folder / "config_sentence_transformers.json"
    path = path if path.exists() else folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def labels(folder: Path, rows: Any) -> list[Any]:
    """The class of each row of logits, the list of its classes, or its number."""
    config = read_config(folder)
    names = list(config["id2label"].values())
    if config["problem_type"] == "regression":
        return [float(row[0]) for row in rows]
    if config["problem_type"] == "multi_label_classification":
        return [[name for name, logit in zip(names, row) if logit > 0] for row in rows]
    return [names[row.argmax()] for row in rows]


def probabilities(folder: Path, rows: Any) -> Any:
    """The probability of each class, [N, C]; the numbers themselves where there are no classes."""
    config = read_config(folder)
    if config["problem_type"] == "regression":
        return rows
    if config["problem_type"] == "multi_label_classification":
        return (1 + np.tanh(rows / 2)) / 2
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main(load: Callable[..., Any], logits: Callable[..., Any], about: str | None) -> None:
    """Print the label of each text on the command line, and its probabilities.

    Args:
        load, logits, about: functions and description of predict.py.
    """
    folder = Path(__file__).parent
    parser = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    if (folder / "base.json").exists():
        parser.add_argument("--base", help="the base's folder, if it is not on the hub")
    parser.add_argument("texts", nargs="+", metavar="text")
    given = parser.parse_args()
    config = read_config(folder)
    texts = given.texts
    if config["text_pairs"]:
        if len(texts) % 2:
            parser.error("the model takes pairs: two texts each")
        texts = list(zip(texts[::2], texts[1::2]))
    rows = logits(load(folder, vars(given).get("base")), texts)
    for text, label, row in zip(texts, labels(folder, rows), probabilities(folder, rows)):
        shown = zip(config["id2label"].values(), row)
        print(text, "->", label, *(f"{name}={value:.4g}" for name, value in shown))
