"""Predictions of the model in this folder, with transformers alone.

    pip install torch transformers
    python predict.py "a text" ["another text" ...]

For a model of pairs, give the two texts of each pair one after the other.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)


def load(folder: Path, base: str | None = None) -> Any:
    """The tokenizer and the model; there is no base to load."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    by_word = config.architectures[0].endswith("ForTokenClassification")
    kind = AutoModelForTokenClassification if by_word else AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, trust_remote_code=False)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False), model.eval()


def logits(loaded: Any, texts: list[Any]) -> Any:
    """Logits [N, C] of N texts or (text, text) pairs; numbers are in the unit of the labels."""
    tokenizer, model = loaded
    rows = []
    for start in range(0, len(texts), 32):
        batch = texts[start : start + 32]
        columns = [batch] if isinstance(batch[0], str) else [list(c) for c in zip(*batch)]
        inputs = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**inputs).logits.numpy())
    return np.concatenate(rows)


def tokens(loaded: Any, texts: list[Any], stride: int) -> Any:
    """For each window over a text, a list of words: the number of the text, logits [S, C] of its
    tokens, and the word of each token. Windows share `stride` tokens; 0: texts are cut."""
    tokenizer, model = loaded
    options = {"padding": True, "truncation": True, "return_tensors": "pt", "stride": stride}
    options["return_overflowing_tokens"] = stride > 0
    for start in range(0, len(texts), 32):
        batch = [list(words) for words in texts[start : start + 32]]
        inputs = tokenizer(batch, is_split_into_words=True, **options)
        numbers = [*map(int, inputs.pop("overflow_to_sample_mapping", range(len(batch))))]
        for first in range(0, len(numbers), 32):
            with torch.inference_mode():
                part = {name: rows[first : first + 32] for name, rows in inputs.items()}
                values = model(**part).logits.numpy()
            for n, logits_of_window in enumerate(values, start=first):
                yield start + numbers[n], logits_of_window, inputs.word_ids(n)


if __name__ == "__main__":
    from answers import main

    main(load, logits, __doc__, tokens)
