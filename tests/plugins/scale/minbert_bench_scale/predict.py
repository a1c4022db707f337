"""Predictions of the model in this folder, with numpy, tokenizers and safetensors.

pip install numpy tokenizers safetensors
python predict.py "a text" ["another text" ...]
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

_erf = np.vectorize(math.erf, otypes=[np.float32])


def load(folder: Path, base: str | None = None) -> Any:
    """The tokenizer, the configuration and the weights; there is no base to load."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    limit = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer.enable_truncation(limit["model_max_length"])
    return tokenizer, config, load_file(folder / "encoder.safetensors")


def logits(loaded: Any, texts: list[Any]) -> Any:
    """Logits [N, C] of N texts or (text, text) pairs, one after the other."""
    tokenizer, config, weights = loaded
    inputs = [tokenizer.encode(*((text,) if isinstance(text, str) else text)) for text in texts]
    return np.stack([_logits(one.ids, one.type_ids, config, weights) for one in inputs])


def _logits(ids: list[int], types: list[int], config: Any, weights: Any) -> Any:
    """Logits [C] of the token ids of one text."""

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    rows = {"word": ids, "position": range(len(ids)), "token_type": types}
    x = sum(weights[f"bert.embeddings.{n}_embeddings.weight"][[*at]] for n, at in rows.items())
    x = norm(x, "bert.embeddings.LayerNorm")
    heads = config["num_attention_heads"]
    for number in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{number}"
        query, key, value = (
            linear(x, f"{layer}.attention.self.{n}").reshape(len(ids), heads, -1).swapaxes(0, 1)
            for n in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (powers / powers.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(x.shape)
        x = x + linear(mixed, f"{layer}.attention.output.dense")
        x = norm(x, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + _erf(inner / math.sqrt(2))) / 2
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    pooled = np.tanh(linear(x[0], "bert.pooler.dense"))
    return linear(pooled, "classifier")


if __name__ == "__main__":
    from answers import main

    main(load, logits, __doc__)
