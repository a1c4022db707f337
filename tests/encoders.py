"""Tiny checkpoints of transformers' encoders, with random weights and trained tokenizers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from itertools import chain
from math import log
from pathlib import Path
from typing import Any, Final, NamedTuple

from adapters.methods import LOW_RANK, PEFT, has_layers, has_rank
from adapters.names import trains_base
from bench.plan.architectures import ARCHITECTURES
from bench.plan.cell import TRANSFORMERS
from bench.plan.job import Job
from minbert.data.tasks import load_data
from tests.bench.synthetic_rows import cell
from tests.bench.tiny_cells import job_of
from tests.components import need

HIDDEN: Final = 64
_RELATIVE: Final = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_POSITIONS: Final = {"max_position_embeddings": 130}
_DIFFERENCES: Final[Mapping[str, Mapping[str, Any]]] = {
    "bert": {}, "roberta": {**_POSITIONS, "type_vocab_size": 1},
    "xlm-roberta": {**_POSITIONS, "type_vocab_size": 1},
    "distilbert": {"dim": HIDDEN, "hidden_dim": 96, "n_layers": 2, "n_heads": 4},
    "electra": {"embedding_size": 32}, "albert": {"embedding_size": 32}, "mpnet": _POSITIONS,
    "deberta": _RELATIVE,
    "deberta-v2": {**_RELATIVE, "position_buckets": 16, "norm_rel_ebd": "layer_norm"},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16},
}  # fmt: skip
KINDS: Final = tuple(_DIFFERENCES)
"""The architectures that have a table of layers, by `model_type`."""

_BYTES: Final = ("roberta", "deberta", "modernbert")
_PIECES: Final = ("xlm-roberta", "camembert", "albert", "deberta-v2")
"""Architectures with byte-level BPE, and with a unigram model; the others have WordPiece."""


def need_transformers() -> None:
    both = find_spec("peft") is not None and find_spec("transformers") is not None
    need(both, "peft and transformers (the extra `transformers`)", component="transformers")


class Checkpoints(NamedTuple):
    """Checkpoints in a folder, each made when it is first asked for."""

    root: Path

    def __call__(self, kind: str, **options: Any) -> Path:
        """The folder of a checkpoint; `options` as of `save`."""
        name = "-".join([kind, "tiny", *(f"{key}={value}" for key, value in options.items())])
        folder = self.root / name
        if not folder.exists():
            save(kind, folder, **options)
        return folder


def save(kind: str, folder: Path, *, head: str = "", pickled: bool = False, **changes: Any) -> None:
    """Save an encoder's checkpoint; `head`: such as `MaskedLM`; `pickled`: not as safetensors."""
    import torch
    import transformers

    tokenizer = save_tokenizer(kind, folder)
    special = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in _named(kind).items()
        if name in ("pad", "cls", "sep")
    }
    values = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 128,
        "initializer_range": 0.15,  # so large that a text's words show in every hidden state
        "bos_token_id": special["cls_token_id"],
        "eos_token_id": special["sep_token_id"], **special, **_DIFFERENCES.get(kind, {}),
        **changes,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **values)
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, f"AutoModel{head and f'For{head}'}").from_config(config)
        for parameter in model.parameters():  # biases and norms as training leaves them
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if pickled:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()


def save_tokenizer(kind: str, folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    named = _named(kind)
    model = "bytes" if kind in _BYTES else "pieces" if kind in _PIECES else "words"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained(model, tuple(named.items())),
        **{f"{name}_token": token for name, token in named.items()},
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _named(kind: str) -> dict[str, str]:
    """The special tokens of a kind, in the order of their ids."""
    if kind in (*_BYTES, *_PIECES[:2], "mpnet"):
        return {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    return {name.lower(): f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}


@cache
def _trained(model: str, special: tuple[tuple[str, str], ...]) -> Any:
    """A tokenizer with this model and these tokens, trained on reviews, the same one each time:
    where the library's trainer depends on the order of a hash table, we decide."""
    import tokenizers as of
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    named, texts = dict(special), load_data("movies", None, max_train=500, max_dev=10).train.text_a
    options: dict[str, Any] = {"vocab_size": 1000, "special_tokens": [*named.values()]}
    options["show_progress"] = False
    if model == "bytes":
        tokenizer = of.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            texts, trainers.BpeTrainer(initial_alphabet=alphabet, **options)
        )
    elif model == "pieces":
        tokenizer = of.Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=named["unk"], **options)
        tokenizer.train_from_iterator(texts, trainer)
        read = "".join(f"▁{text.replace(' ', '▁')}" for text in texts)
        pieces = [(-log(1 + read.count(piece)), piece) for piece in tokenizer.get_vocab()]
        rest = sorted(one for one in pieces if one[1] not in named.values())
        scores = [*((token, 0.0) for token in named.values()),
                  *((piece, -cost - log(len(read))) for cost, piece in rest)]  # fmt: skip
        tokenizer.model = models.Unigram(scores, [*named].index("unk"))
    else:
        tokenizer = of.Tokenizer(models.WordPiece(unk_token=named["unk"]))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        plain = map(tokenizer.normalizer.normalize_str, texts)
        split = chain.from_iterable(map(tokenizer.pre_tokenizer.pre_tokenize_str, plain))
        counts = Counter(word for word, _ in split)
        letters = sorted({*"".join(counts)})
        words = sorted(counts.keys() - {*letters}, key=lambda word: (-counts[word], word))
        vocabulary = [*named.values(), *letters, *(f"##{letter}" for letter in letters), *words]
        numbers = {piece: number for number, piece in enumerate(vocabulary[:1000])}
        tokenizer.model = models.WordPiece(numbers, unk_token=named["unk"])
        tokenizer.add_special_tokens([*named.values()])
    cls, sep = named["cls"], named["sep"]
    tokenizer.post_processor = of.processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )  # fmt: skip
    return tokenizer


def job(folder: Path, mode: str, layers: str | None = None, **changes: Any) -> Job:
    """A job of engine transformers; `changes` of settings; `adapter_config`: JSON, of mode peft."""
    given = changes.pop("adapter_config", None)
    adapted, kind = has_layers(mode), folder.name.partition("-tiny")[0]
    architecture = ARCHITECTURES.get(kind)
    has_sdpa = architecture is not None and architecture.has_sdpa
    rates = {
        "learning_rate": None if mode == "head" else 3e-3,
        "learning_rate_base": 1e-3 if adapted and trains_base(str(layers)) else None,
        "learning_rate_head": None if mode == "full" else 3e-3,
    }
    theirs = {
        "engine": TRANSFORMERS, "engine_version": "", "kernels": None,
        "attn_implementation": "sdpa" if has_sdpa else "eager",
        "adapter": "example 0" if mode == PEFT else None,
    }  # fmt: skip
    own = cell(
        mode, 4 if has_rank(mode) else None, layers if adapted else None, "off",
        **{
            "model": kind, "model_digest": "0", "data_digest": "0", "pooling": "pooler",
            "max_train": None, "max_length": 64, "epochs": 1, "learning_rate_source": "grid",
            "alpha": 8.0 if mode in LOW_RANK else None, "dropout": 0.0, "unfreeze": "all",
            **rates, **theirs,
        },
    )  # fmt: skip
    return replace(job_of(replace(own, **changes), folder), adapter_config=given)
