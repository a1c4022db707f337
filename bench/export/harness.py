"""The script of a fresh process that runs a snippet on texts, `python harness.py REQUEST ANSWER`;
imports no part of this project. Texts are read from a JSON file; logits are written as ANSWER.npy,
the rest as ANSWER."""

import json
import sys
import time
from contextlib import suppress
from functools import partial
from importlib import metadata
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

BATCH = 32
ONE_BY_ONE, BATCHES = 50, 20  # the most texts, and batches, that are timed
PACKAGES = ("peft", "sentence-transformers", "tokenizers", "torch", "transformers", "onnxruntime")


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for name in request["hidden"]:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    import numpy as np

    if request["threads"] is not None and "onnxruntime" in Path(request["snippet"]).read_text():
        _limit_onnxruntime(request["threads"])  # torch reads OMP_NUM_THREADS
    snippet, answers = (
        SimpleNamespace(**run_path(request[name])) for name in ("snippet", "answers")
    )
    folder = Path(request["folder"])
    texts = [text if isinstance(text, str) else tuple(text) for text in request["texts"]]
    model = snippet.load(folder, **request["options"])
    size = request["batch_size"]
    predict = answers.predictor(folder, snippet.logits, getattr(snippet, "tokens", None))
    rows = np.concatenate([predict(model, texts[n : n + size]) for n in range(0, len(texts), size)])
    answer: dict[str, Any] = {"labels": [], "one_ms": [], "batch_ms": []}
    with suppress(IndexError):  # more logits than names: the parent compares their number
        answer["labels"] = answers.labels(folder, rows)
    if request["timed"]:
        ones = [texts[n : n + 1] for n in range(min(ONE_BY_ONE, len(texts)))]
        repeated = cycle(texts)  # so that the last batch is full
        starts = range(0, len(texts), BATCH)[:BATCHES]
        batches = [[*islice(repeated, BATCH)] for _ in starts]
        answer["one_ms"] = _times(predict, model, ones)
        answer["batch_ms"] = _times(predict, model, batches)
    if request["piped"]:
        answer["entities"] = _entities(
            folder, answers, partial(predict, model), texts[: request["piped"]]
        )
    answer["libraries"] = {
        name: metadata.version(name)
        for name in PACKAGES
        if sys.modules.get(name.replace("-", "_")) is not None
    }
    np.save(f"{sys.argv[2]}.npy", rows)
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def _entities(folder: Path, answers: Any, predict: Any, texts: Any) -> dict[str, list[int]]:
    """The entities that transformers' pipeline finds in lists of words, how many of them are those
    of the snippet, and how many the snippet finds: given the words, and given plain text."""
    from transformers import pipeline

    tagger = pipeline("token-classification", str(folder), aggregation_strategy="first")
    counts = {"words": [0, 0, 0], "text": [0, 0, 0]}
    for words in texts:
        text = " ".join(words)
        ends = [*accumulate(words, lambda end, word: end + 1 + len(word), initial=-1)]
        pairs = [(begin + 1, end) for begin, end in pairwise(ends)]
        for kind, places in (("words", pairs), ("text", answers.words_in(text))):
            parts = [text[a:b] for a, b in places]
            spans = answers.spans(folder, places, predict([parts])) if parts else []
            own = {(one["begin"], one["end"], one["type"]) for one in spans}
            is_split = kind == "words"
            [spans] = tagger([parts], is_split_into_words=True) if is_split else [tagger(text)]
            theirs = {(one["start"], one["end"], one["entity_group"]) for one in spans}
            for n, each in enumerate((theirs, theirs & own, own)):
                counts[kind][n] += len(each)
    return counts


def _limit_onnxruntime(threads: int) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    onnxruntime.InferenceSession = partial(onnxruntime.InferenceSession, sess_options=options)


def _times(predict: Any, model: Any, batches: list[list[Any]]) -> list[float]:
    """The time of each batch in ms, after three that don't count."""
    for batch in batches[:3]:
        predict(model, batch)
    times = []
    for batch in batches:
        start = time.perf_counter()
        predict(model, batch)
        times.append((time.perf_counter() - start) * 1000)
    return times


if __name__ == "__main__":
    main()
