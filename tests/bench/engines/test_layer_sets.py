"""Layer sets by the structure of an encoder's blocks, and the parameters that a mode and such a set
train."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.common.errors import InputError
from bench.engines.layer_sets import find_blocks
from tests.bench.engines.trainable import listing
from tests.encoders import KINDS, need_transformers

GOLDEN = Path(__file__).parent / "golden" / "layer-sets.txt"
OTHERS = (
    "camembert", "convbert", "data2vec-text", "ernie", "flaubert", "fnet", "longformer",
    "megatron-bert", "mobilebert", "nystromformer", "rembert", "roberta-prelayernorm", "roformer",
    "xlm", "xmod",
)  # fmt: skip


def block(**widths):
    """A block of linear layers, called as arguments with `__` for dots, each of (in, out)."""
    module = nn.Module()
    for name, (inputs, outputs) in widths.items():
        owner = module
        *parents, last = name.split("__")
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, nn.Module())
            owner = getattr(owner, parent)
        owner.add_module(last, nn.Linear(inputs, outputs, device="meta"))
    return module


def blocks(*each):
    return find_blocks(nn.Sequential(*each), "bert.layer")


def refusal(found, layers):
    with pytest.raises(InputError) as error:
        found.adapted(layers, "mine")
    return str(error.value)


def test_layer_sets_of_encoders_are_as_listed():
    need_transformers()
    import transformers

    lines = []
    for kind in sorted({*KINDS, *OTHERS}):
        config = transformers.AutoConfig.for_model(kind)
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config)
        found = find_blocks(model, model.base_model_prefix)
        lines.append(f"{kind}: {found}; feed-forward ends with {found.last}\n")
    assert "".join(lines) == GOLDEN.read_text()


def test_adapted_layers_are_in_every_block():
    own = {"attn__q": (8, 8), "attn__k": (8, 4), "attn__v": (8, 4), "up": (8, 16), "down": (16, 8)}
    found = blocks(block(**own), block(**own))
    names = ["attn.q", "attn.k", "attn.v", "up", "down"]
    every = [f"bert.layer.{number}.{name}" for name in names for number in (0, 1)]
    assert found.adapted("all-lin", "mine") == every
    assert found.adapted("attn-only", "mine") == every[:6]
    assert found.adapted("down+attn.k", "mine") == [*every[2:4], *every[8:]]
    assert (found.last, found.count) == ("down", 2)


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        ([{"ffn": (8, 8)}], "has no linear layers for"),
        ([{"q": (8, 8), "k": (8, 3), "v": (8, 8)}], "has no linear layers for"),
        ([{"qkv": (8, 8)}], "has no linear layers for"),
        ([{"a__qkv": (8, 24), "b__qkv": (8, 24)}], "has several for"),
        (
            [{"q": (8, 8), "k": (8, 8), "v": (8, 8)}, {"q_k": (8, 8), "v": (8, 8)}],
            "has no linear layers for",
        ),
    ],
    ids=["none", "shapes", "fused too narrow", "two", "not in each block"],
)
def test_what_the_structure_does_not_say_is_refused_with_what_to_write(each, reason):
    found = blocks(*(block(**own) for own in each))
    line = refusal(found, "attn-only")
    assert line.startswith(f"layers attn-only: a block of mine {reason} query, key and value")
    ends = [name.rpartition(".")[2] for name in found.layers]
    assert line.endswith(f'layers = ["{"+".join(dict.fromkeys(ends[:2]))}"]')
    assert found.adapted("all-lin", "mine")
    assert "has no linear layer whose name ends in nothing" in refusal(found, "nothing")


LISTINGS = Path(__file__).parent / "golden"


@pytest.mark.parametrize("kind", KINDS)
def test_what_trains_is_what_the_golden_file_says(encoders, kind):
    assert listing(encoders(kind)) == (LISTINGS / f"{kind}.txt").read_text()


def test_the_pooler_that_a_checkpoint_lacks_belongs_to_the_head(encoders):
    bare = encoders("bert", head="MaskedLM")
    assert listing(bare) == (LISTINGS / "bert-without-pooler.txt").read_text()
