"""The encoder against transformers' BertModel, its configuration, drawn weights, and heads."""

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from minbert.errors import InputError
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import ACTIVATIONS, GEOMETRIES, BertConfig, count_parameters
from minbert.model.encoder import BertEncoder
from minbert.model.heads import HEADS
from tests.minbert import peers

SMALL = peers.sizes(24, 2, 3, 40, 50, 16, initializer_range=0.1)


def small_model(config=SMALL, pooling="pooler", seed=0):
    model = BertClassifier(config, 5, pooling=pooling, dropout=0.1)
    initialise(model, seed)
    return model.eval()


@torch.inference_mode()
def check_agreement(theirs, folder, seed=0):
    """Fail unless our encoder of a folder agrees with transformers' at real tokens."""
    config, pooler = BertConfig.from_folder(folder), theirs.pooler is not None
    ours = BertEncoder(config, pooler=pooler).eval()
    assert load_encoder(ours, folder) is False
    ids, mask, types = peers.padded_batch(config, seed=seed)
    expected = theirs.eval()(input_ids=ids, attention_mask=mask, token_type_ids=types)
    hidden = ours(ids, mask, types)
    assert (hidden - expected.last_hidden_state)[mask.bool()].abs().max() < 1e-5
    if pooler:
        assert (ours.pooler(hidden) - expected.pooler_output).abs().max() < 1e-5


def test_minilm_agrees_with_transformers(minilm):
    check_agreement(peers.transformers().BertModel.from_pretrained(minilm), minilm)


@settings(max_examples=15, derandomize=True)
@given(
    drawn=st.fixed_dictionaries({
        "num_hidden_layers": st.integers(1, 4), "intermediate_size": st.integers(1, 70),
        "type_vocab_size": st.integers(1, 4), "hidden_act": st.sampled_from(ACTIVATIONS),
        "layer_norm_eps": st.sampled_from([1e-12, 1e-6, 1e-3]),
    }),
    head_size=st.integers(1, 24), heads=st.integers(1, 5), pooler=st.booleans(),
    implementation=st.sampled_from(["eager", "sdpa"]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_configuration_agrees_with_transformers(
    tmp_path_factory, drawn, head_size, heads, pooler, implementation, seed
):
    config = replace(SMALL, hidden_size=head_size * heads, num_attention_heads=heads, **drawn)
    library = peers.transformers()
    torch.manual_seed(0)
    theirs = library.BertModel(
        library.BertConfig(**asdict(config), attn_implementation=implementation),
        add_pooling_layer=pooler,
    )
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            tensor.copy_(torch.randn_like(tensor) * 0.1 + 1.0 * name.endswith("Norm.weight"))
    folder = tmp_path_factory.mktemp("drawn")
    theirs.save_pretrained(folder)
    assert BertConfig.from_folder(folder) == config
    check_agreement(theirs, folder, seed)


def test_dropout_is_for_training_alone_and_has_the_probability_it_was_given():
    config = replace(SMALL, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    model, given = small_model(config), peers.padded_batch(SMALL)
    assert torch.equal(model(*given), model(*given))
    assert model.dropout == 0.1
    assert model.bert.embeddings.dropout == 0.3
    for layer in model.bert.encoder.layer:
        assert layer.attention.self.dropout == 0.2
        assert layer.attention.output.dropout == layer.output.dropout == 0.3
    model = small_model(replace(config, hidden_dropout_prob=0.0)).train().bert
    assert not torch.equal(model(*given), model(*given))


def test_drawn_weights_are_those_of_bert_and_of_a_seed():
    state = torch.get_rng_state()
    config = replace(SMALL, hidden_size=96, vocab_size=500, initializer_range=0.02)
    model = BertClassifier(config, 5, pooling="pooler", dropout=0.1)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    initialise(model, 0)
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            assert (tensor == 0).all(), name
        elif "LayerNorm" in name:
            assert (tensor == 1).all(), name
        else:
            assert tensor.mean().abs() < 0.005, name
            assert 0.015 < tensor.std() < 0.025, name
    other = small_model(config, seed=1)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    initialise(other, 0)  # which has values
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    same = small_model(config).parameters()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), same, strict=True))
    with pytest.raises(ValueError, match="no pooling is called 'max'"):
        small_model(pooling="max")


def drawn(name, width, generator):
    """A head with weights, in evaluation."""
    head = HEADS[name](width, 5, 0.5).to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return head


def test_convolutions_are_torchs_and_do_not_see_padding_and_nonlinear_is_two_layers():
    width, generator = 12, torch.Generator().manual_seed(1)
    head, x = drawn("conv", width, generator), torch.randn(3, 7, width, generator=generator)
    found = []
    for window, linear in zip((2, 3, 4), head.windows, strict=True):
        conv = nn.Conv1d(width, linear.out_features, window)
        kernel = linear.weight.view(linear.out_features, window, width).transpose(1, 2)
        conv.load_state_dict({"weight": kernel, "bias": linear.bias})
        channels = conv(F.pad(x.transpose(1, 2), (0, window - 1)))
        found.append(F.relu(channels).amax(dim=2))
    torch.testing.assert_close(head(x), head.out(torch.cat(found, dim=1)), rtol=1e-4, atol=1e-5)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7, [1] * 7])
    torch.testing.assert_close(head(x, mask)[:1], head(x[:1, :4]))
    noise = x + 100 * (1 - mask[:, :, None])
    torch.testing.assert_close(head(noise, mask), head(x, mask))
    head, x = drawn("nonlinear", width, generator), x[:, 0]
    torch.testing.assert_close(head(x), head.out(F.gelu(head.dense(x))))
    assert not torch.equal(head.train()(x), head(x))


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


@pytest.mark.parametrize(("key", "value"), [
    ("hidden_act", "silu"), ("position_embedding_type", "relative_key"), ("is_decoder", True),
    ("hidden_size", 0), ("hidden_size", True), ("num_hidden_layers", 1025),
    ("vocab_size", 10**12), ("num_attention_heads", 3), ("layer_norm_eps", 0),
    ("layer_norm_eps", float("nan")), ("hidden_dropout_prob", 1.0),
    ("attention_probs_dropout_prob", -0.1), ("pad_token_id", 30522), ("pad_token_id", "x\n"),
])  # fmt: skip
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
