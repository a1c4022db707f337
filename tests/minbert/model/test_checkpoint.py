"""Checkpoints: what is read, what is refused and how, and what transformers reads back."""

import json
import os
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from minbert.errors import InputError
from minbert.files import model_digest, vocabulary_digest
from minbert.model.checkpoint import load_encoder, save_checkpoint, state_dict_for_export
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import BertConfig
from minbert.model.encoder import BertEncoder
from tests.hostile import check_line
from tests.minbert import peers

CONFIG = peers.sizes(12, 2, 3, 20, 30, 8, initializer_range=0.5)
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]


def model(pooling="pooler", seed=0):
    made = BertClassifier(CONFIG, 3, pooling=pooling, dropout=0.2)
    initialise(made, seed)
    return made.eval()


def tensors(prefix="bert."):
    """The tensors of a checkpoint of `model()`, under a prefix."""
    return {
        prefix + name.removeprefix("bert."): tensor.clone()
        for name, tensor in state_dict_for_export(model()).items()
        if name.startswith("bert.")
    }


def write(folder, named, kind="safetensors"):
    """Write weights, instead of any that are there."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder / name).unlink(missing_ok=True)
    if kind == "safetensors":
        save_file({name: t.contiguous() for name, t in named.items()}, folder / "model.safetensors")
        return
    new = kind == "bin"
    torch.save(named, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)


def assert_loads(folder, *, pooler=True, dtype=torch.float32):
    """The folder gives an encoder the weights of `model()`, as they are in a type."""
    encoder = BertEncoder(CONFIG, pooler=pooler)
    assert load_encoder(encoder, folder) is False
    expected = {
        name: tensor.to(dtype).float()
        for name, tensor in model().bert.state_dict().items()
        if pooler or not name.startswith("pooler.")
    }
    torch.testing.assert_close(dict(encoder.state_dict()), expected, rtol=0, atol=0)


def load(folder, config=CONFIG):
    encoder = BertEncoder(config)
    load_encoder(encoder, folder)
    return encoder


def refused(folder, config=CONFIG):
    """The line that loading is refused with."""
    with pytest.raises(InputError) as caught:
        load(folder, config)
    check_line(str(caught.value), folder)
    return str(caught.value).removeprefix(str(folder))


OTHERS = {
    "cls.predictions.bias": torch.zeros(30),
    "cls.seq_relationship.weight": torch.zeros(2, 12),
    "classifier.weight": torch.zeros(3, 12),
}
OLD = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@pytest.mark.parametrize(
    ("kind", "prefix", "dtype", "others"),
    [
        ("safetensors", "", torch.float64, OTHERS), ("bin", "bert.", torch.bfloat16, OTHERS),
        ("old bin", "module.bert.", torch.float32, {}),
    ],
)  # fmt: skip
def test_any_format_prefix_and_type_is_read_and_heads_are_passed_over(
    folder, kind, prefix, dtype, others
):
    others = others | {f"{prefix}embeddings.position_ids": torch.arange(8)[None]}
    write(folder, others | {name: t.to(dtype) for name, t in tensors(prefix).items()}, kind)
    assert_loads(folder, dtype=dtype)
    assert_loads(folder, pooler=False, dtype=dtype)
    if kind == "safetensors":  # which come first
        (folder / "pytorch_model.bin").write_bytes(b"not looked at")
        assert_loads(folder, dtype=dtype)


def test_old_names_of_layer_norm_are_read(folder):
    old = {}
    for name, tensor in tensors().items():
        norm = ".".join(name.split(".")[-2:])
        old[name.removesuffix(norm) + OLD.get(norm, norm)] = tensor
    assert len(old.keys() - tensors().keys()) == 2 * (1 + 2 * CONFIG.num_hidden_layers)
    write(folder, old, "bin")
    assert_loads(folder)
    write(folder, {**old, "bert.embeddings.LayerNorm.weight": torch.ones(12)})
    assert "under an old name and a new one" in refused(folder)


def test_a_pooler_that_is_missing_is_said_and_drawn(folder):
    write(folder, {name: t for name, t in tensors().items() if "pooler" not in name})
    loaded = BertClassifier(CONFIG, 3, pooling="pooler", dropout=0.0)
    assert load_encoder(loaded.bert, folder) is True
    assert loaded.bert.pooler.dense.weight.is_meta
    before = loaded.bert.embeddings.word_embeddings.weight.clone()
    initialise(loaded, 4)
    assert 0.3 < loaded.bert.pooler.dense.weight.std() < 0.7
    assert (loaded.bert.pooler.dense.bias == 0).all()
    assert torch.equal(loaded.bert.embeddings.word_embeddings.weight, before)

    first = model(seed=9)
    drawn = first.bert.pooler.dense.weight.clone()
    assert load_encoder(first.bert, folder) is True
    assert torch.equal(first.bert.pooler.dense.weight, drawn)
    assert torch.equal(first.bert.embeddings.word_embeddings.weight, before)
    assert load_encoder(BertEncoder(CONFIG, pooler=False), folder) is False


def test_what_does_not_fit_is_named_in_one_line_and_changes_nothing(folder):
    named = tensors()
    del named["bert.encoder.layer.1.attention.self.key.bias"]
    named["bert.encoder.layer.0.extra\nline"] = torch.zeros(1)
    named["bert.encoder.layer.0.intermediate.dense.weight"] = torch.zeros(12, 20)
    named["bert.encoder.layer.0.attention.self.value.weight"] = torch.zeros(3, 12)
    named["bert.encoder.layer.0.output.dense.bias"] = torch.zeros(12, dtype=torch.int32)
    write(folder, named)
    other = model(seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(InputError):
        load_encoder(other.bert, folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    line = refused(folder)
    assert "missing: encoder.layer.1.attention.self.key.bias;" in line
    assert r"unexpected: 'encoder.layer.0.extra\nline';" in line
    assert "encoder.layer.0.intermediate.dense.weight [12, 20] instead of [20, 12]" in line
    assert "encoder.layer.0.attention.self.value.weight [3, 12] instead of [12, 12]" in line
    assert "not of floating-point numbers: encoder.layer.0.output.dense.bias" in line


def test_weights_of_other_encoders_are_refused(folder):
    write(folder, {name: t for name, t in tensors().items() if name != "bert.pooler.dense.bias"})
    assert "missing: pooler.dense.bias" in refused(folder)
    write(folder, {"bert.embeddings.word_embeddings.weight": torch.zeros(30, 12)})
    line = refused(folder)
    assert len(line) < 500
    assert f" and {len(tensors()) - 3 - 4} more" in line, "without the words and a pooler"
    write(folder, {"roberta.encoder.layer.0.output.dense.bias": torch.zeros(12)})
    assert "unexpected: roberta.encoder.layer.0.output.dense.bias" in refused(folder)
    write(folder, {**tensors("query."), **tensors("document.")})
    assert "holds 2 encoders" in refused(folder)
    for content in ([1, 2], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3)):
        write(folder, content, "bin")
        assert "holds no table of named tensors" in refused(folder)


def test_what_is_not_there_is_one_line(folder):
    for name in ("nowhere", "x" * 5000, "a\0b"):
        with pytest.raises(InputError, match="no such folder"):
            load_encoder(BertEncoder(CONFIG), folder / name)
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        (folder / name).rename(folder / "other")
        os.mkfifo(folder / name)  # it would be waited for
        with pytest.raises(InputError, match=f"has no .*{name}"):
            model_digest(folder)
        (folder / "other").replace(folder / name)


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_a_saved_checkpoint_is_read_again_here_and_by_transformers(tmp_path, folder, pooling):
    made, saved = model(pooling), tmp_path / "new" / "saved"
    save_checkpoint(made, saved)
    assert_loads(saved, pooler=pooling == "pooler")
    assert load_encoder(BertEncoder(CONFIG), saved) is (pooling == "mean")
    assert BertConfig.from_folder(saved) == CONFIG
    if pooling == "mean":
        return
    library = peers.transformers()
    shutil.copy(folder / "vocab.txt", saved)
    theirs, info = library.AutoModelForSequenceClassification.from_pretrained(
        saved, output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(theirs) is library.BertForSequenceClassification
    assert theirs.config.architectures == ["BertForSequenceClassification"]
    assert theirs.dropout.p == 0.2
    ids, mask, types = peers.padded_batch(CONFIG, length=8)
    logits = theirs.eval()(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    torch.testing.assert_close(logits, made(ids, mask, types), rtol=0, atol=1e-5)
    tokenizer = library.AutoTokenizer.from_pretrained(saved)
    assert tokenizer("Good film")["input_ids"] == [2, 5, 7, 3]


@pytest.mark.parametrize("head", ["nonlinear", "linear"])
def test_what_the_format_has_no_names_for_is_not_exported(head):
    made = BertClassifier(CONFIG, 3, pooling="mean", dropout=0.0, head=head)
    made.bert.encoder.layer[0].attention.self.qkv.register_parameter(
        "lora_A", nn.Parameter(torch.zeros(2, 12))
    )
    why = "take the adapters out first" if head == "linear" else "no place for a head"
    with pytest.raises(ValueError, match=why):
        state_dict_for_export(made)


def test_digests_follow_the_files_and_not_the_folder(tmp_path, folder):
    whole, words = model_digest(folder), vocabulary_digest(folder)
    assert len(whole) == len(words) == 64
    eps = json.dumps(asdict(replace(CONFIG, layer_norm_eps=1e-6)))
    for name, content, in_model, in_vocabulary in (
        ("README.md", "says nothing about the model", False, False),
        ("config.json", eps, True, False),
        ("model.safetensors", "other", True, False),
        ("tokenizer_config.json", '{"do_lower_case": false}', True, True),
    ):
        copy = shutil.copytree(folder, tmp_path / name)
        (copy / name).write_text(content)
        assert (model_digest(copy) != whole) == in_model, name
        assert (vocabulary_digest(copy) != words) == in_vocabulary, name
