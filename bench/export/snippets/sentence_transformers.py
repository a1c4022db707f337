"""Predictions of the model in this folder, with sentence-transformers alone.

    pip install sentence-transformers
    python predict.py "a text" ["another text" ...]

For a model of pairs, give the two texts of each pair one after the other.
"""

from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer


def load(folder: Path, base: str | None = None) -> Any:
    """The modules, whose embeddings are logits; there is no base to load."""
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=False)


def logits(loaded: Any, texts: list[Any]) -> Any:
    """Logits [N, C] of N texts or (text, text) pairs; numbers are in the unit of the labels."""
    return loaded.encode(texts, batch_size=32)


if __name__ == "__main__":
    from answers import main

    main(load, logits, __doc__)
