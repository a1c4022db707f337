"""Answers in words: what the logits of predict.py, which is next to this file, mean."""

import json
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
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


def by_word(folder: Path) -> bool:
    """Whether the model has logits for each word of a text."""
    config = read_config(folder)
    return str(config.get("architectures", [""])[0]).endswith("ForTokenClassification")


def places_of(windows: Sequence[Sequence[int | None]]) -> dict[int, tuple[int, int]]:
    """The window, and the token in it, by which each word of a text is read, from the words of all
    tokens: its first token, in the first of the windows in which the side with fewer tokens has
    most."""
    places: dict[int, tuple[int, int]] = {}
    sides: dict[int, int] = {}
    for window, words in enumerate(windows):
        tokens = [(place, word) for place, word in enumerate(words) if word is not None]
        for word, place in {word: place for place, word in reversed(tokens)}.items():
            side = min(place - tokens[0][0], tokens[-1][0] - place)
            if side > sides.get(word, -1):
                places[word], sides[word] = (window, place), side
    return places


def predictor(
    folder: Path, logits: Any, tokens: Any, stride: int | None = None
) -> Callable[..., Any]:
    """The function that returns logits of texts, or of the words of texts, made of two of
    predict.py. Two windows over a text share `stride` tokens, by default as in training; 0: texts
    are cut."""
    shared = read_config(folder).get("window_stride", 0) if stride is None else stride

    def of_words(loaded: Any, texts: list[Any]) -> Any:
        """Logits [M, C] of lists of words; 0 of words without a token."""
        rows = []
        for text, of_text in groupby(tokens(loaded, texts, shared), key=itemgetter(0)):
            _, values, numbers = zip(*of_text)
            row = np.zeros((len(texts[text]), values[0].shape[1]), dtype=np.float32)
            for word, (window, place) in places_of(numbers).items():
                row[word] = values[window][place]
            rows.append(row)
        return np.concatenate(rows)

    return of_words if by_word(folder) else logits


def spans(folder: Path, words: list[tuple[int, int]], rows: Any) -> list[dict[str, Any]]:
    """The entities in a text, from the ends of its words in characters and their logits: ends,
    type, and score, the mean probability of its words' tags. An entity begins with B-; where tags
    are other classes, such as parts of speech, each word that is read is one."""
    entities: list[dict[str, Any]] = []
    names = read_config(folder)["id2label"].values()
    if any(name != "O" and name[:2] not in ("B-", "I-") for name in names):
        scores = probabilities(folder, rows).max(axis=1).tolist()
        every = zip(words, labels(folder, rows), scores, rows.any(axis=1))
        return [
            {"begin": b, "end": e, "type": tag, "score": s}
            for (b, e), tag, s, read in every
            if read
        ]
    open_type, scores = None, list[float]()
    shares = probabilities(folder, rows).max(axis=1).tolist()
    for (begin, end), tag, share in zip(words, labels(folder, rows), shares):
        if tag.startswith("B-"):
            open_type, scores = tag[2:], []
            entities.append({"begin": begin, "type": open_type})
        elif tag != f"I-{open_type}":
            open_type = None
        if open_type is not None:
            scores.append(share)
            entities[-1] |= {"end": end, "score": sum(scores) / len(scores)}
    return entities


def words_in(text: str) -> list[tuple[int, int]]:
    """The ends of the words of a text: letters and digits, or single other signs."""
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def probabilities(folder: Path, rows: Any) -> Any:
    """The probability of each class, [N, C]; the numbers themselves where there are no classes."""
    config = read_config(folder)
    if config["problem_type"] == "regression":
        return rows
    if config["problem_type"] == "multi_label_classification":
        return (1 + np.tanh(rows / 2)) / 2
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main(
    load: Callable[..., Any],
    logits: Callable[..., Any],
    about: str | None,
    tokens: Callable[..., Any] | None = None,
) -> None:
    """Print the label of each text on the command line, and its probabilities, or the entities in
    it.

    Args:
        load, logits, about, tokens: functions and description of predict.py.
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
    loaded = load(folder, vars(given).get("base"))
    if by_word(folder):
        for text in texts:
            words = words_in(text)
            parts = [text[begin:end] for begin, end in words]
            rows = predictor(folder, logits, tokens)(loaded, [parts]) if parts else np.empty((0, 1))
            print(text, "->", *(str(span) for span in spans(folder, words, rows)))
        return
    rows = logits(loaded, texts)
    for text, label, row in zip(texts, labels(folder, rows), probabilities(folder, rows)):
        shown = zip(config["id2label"].values(), row)
        print(text, "->", label, *(f"{name}={value:.4g}" for name, value in shown))
