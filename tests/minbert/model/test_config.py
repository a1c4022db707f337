"""Reading of a config.json, its refusals, and numbers of parameters."""

from dataclasses import asdict

import pytest

from minbert.errors import InputError
from minbert.model.config import GEOMETRIES, BertConfig, count_parameters
from tests.minbert import peers

VALUES = {"model_type": "bert", **asdict(GEOMETRIES["bert-tiny"])}


def refused(values):
    """The line that a configuration is refused with."""
    with pytest.raises(InputError) as caught:
        BertConfig.from_values(values, "somewhere/config.json")
    line = str(caught.value)
    assert line.startswith("somewhere/config.json: ")
    assert "\n" not in line
    return line


def test_every_value_is_read_and_old_files_leave_out_what_has_a_default(minilm):
    config = peers.sizes(
        24, 3, 6, 40, 99, 33, type_vocab_size=4, hidden_act="relu", layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.25, initializer_range=0.1,
        pad_token_id=7,
    )  # fmt: skip
    plain = peers.sizes(1, 1, 1, 1, 30522, 512).values()
    assert all(value != plain[key] for key, value in config.values().items())
    assert BertConfig.from_values(asdict(config), "") == config
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    values = {key: VALUES[key] for key in (*needed, "vocab_size")}
    assert BertConfig.from_values(values, "") == GEOMETRIES["bert-tiny"]
    assert BertConfig.from_folder(minilm) == GEOMETRIES["minilm"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "silu"), ("position_embedding_type", "relative_key"), ("is_decoder", True),
        ("hidden_size", 0), ("hidden_size", True), ("num_hidden_layers", 1025),
        ("vocab_size", 10**12), ("num_attention_heads", 3), ("layer_norm_eps", 0),
        ("layer_norm_eps", float("nan")), ("hidden_dropout_prob", 1.0),
        ("attention_probs_dropout_prob", -0.1), ("pad_token_id", 30522), ("pad_token_id", "x\n"),
    ],
)  # fmt: skip
def test_a_value_that_can_not_be_is_named(key, value):
    assert key in refused({**VALUES, key: value})


def test_missing_or_absurd_sizes_and_another_architecture_are_named():
    assert "parameters in all" in refused({**VALUES, "hidden_size": 2**20, "vocab_size": 2**24})
    values = {key: value for key, value in VALUES.items() if not key.startswith("num_")}
    assert "num_hidden_layers, num_attention_heads" in refused(values)
    for model_type in ("deberta-v2", None, 3):
        line = f"model_type is {model_type!r}, and engine minbert loads bert, roberta, "
        assert line in refused({**VALUES, "model_type": model_type})


def test_known_sizes_have_their_known_counts_and_all_the_vocabulary_of_minilm():
    assert count_parameters(GEOMETRIES["minilm"]) == 22_713_216
    assert count_parameters(GEOMETRIES["bert-base"]) == 109_482_240
    assert count_parameters(GEOMETRIES["bert-large"]) == 335_141_888
    assert {config.vocab_size for config in GEOMETRIES.values()} == {30522}
