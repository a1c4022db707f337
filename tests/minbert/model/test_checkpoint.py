"""Checkpoints: what is read, what is refused and how, what transformers reads back, and
configurations, weights and pickles of every wrong kind."""

import functools
import json
import os
import shutil
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from bench.common.errors import InputError as Refused
from bench.engines import check
from minbert.errors import InputError
from minbert.files import model_digest, vocabulary_digest
from minbert.model.checkpoint import load_encoder, save_checkpoint, state_dict_for_export
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import BertConfig, count_parameters
from minbert.model.encoder import BertEncoder
from tests import hostile
from tests.minbert import peers

CONFIG = peers.sizes(12, 2, 3, 20, 30, 8, initializer_range=0.5)
VALUES = {"model_type": "bert", **asdict(CONFIG)}
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
    else:
        is_new = kind == "bin"
        torch.save(named, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_new)


@pytest.fixture
def folder(tmp_path):
    """The folder of a whole checkpoint."""
    made = tmp_path / "checkpoint"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(VALUES))
    (made / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    write(made, tensors())
    return made


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
    hostile.check_line(str(caught.value), folder)
    return str(caught.value).removeprefix(str(folder))


HEADS = ("cls.predictions.bias", "cls.seq_relationship.weight", "classifier.weight")


@pytest.mark.parametrize(("kind", "prefix", "dtype", "heads"), [
    ("safetensors", "", torch.float64, HEADS), ("bin", "bert.", torch.bfloat16, HEADS),
    ("old bin", "module.bert.", torch.float32, ()),
])  # fmt: skip
def test_any_format_prefix_and_type_is_read_without_heads(folder, kind, prefix, dtype, heads):
    names = (*heads, f"{prefix}embeddings.position_ids")
    others = {name: torch.zeros(1, 8) for name in names}
    write(folder, others | {name: t.to(dtype) for name, t in tensors(prefix).items()}, kind)
    assert_loads(folder, dtype=dtype)
    assert_loads(folder, pooler=False, dtype=dtype)
    if kind == "safetensors":  # which come first
        (folder / "pytorch_model.bin").write_bytes(b"not looked at")
        assert_loads(folder, dtype=dtype)


def test_old_names_of_layer_norm_are_read(folder):
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in tensors().items()
    }
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
    before = [tensor.clone() for tensor in other.state_dict().values()]
    with pytest.raises(InputError):
        load_encoder(other.bert, folder)
    torch.testing.assert_close([*other.state_dict().values()], before, rtol=0, atol=0)
    line = refused(folder)
    assert "missing: encoder.layer.1.attention.self.key.bias;" in line
    assert r"unexpected: 'encoder.layer.0.extra\nline';" in line
    assert "encoder.layer.0.intermediate.dense.weight [12, 20] instead of [20, 12]" in line
    assert "encoder.layer.0.attention.self.value.weight [3, 12] instead of [12, 12]" in line
    assert "not of floating-point numbers: encoder.layer.0.output.dense.bias" in line


def test_weights_of_other_encoders_and_of_other_kinds_are_refused(folder):
    write(folder, {name: t.to(torch.float8_e5m2) for name, t in tensors().items()})
    assert "of numbers that need a scale: embeddings" in refused(folder)
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


WORDS = "bert.embeddings.word_embeddings.weight"
DEEP = st.sampled_from([*hostile.NEAR_THE_LIMIT, 10_000, 200_000]).map(hostile.nested)
WITH_DEEP = DEEP.map(lambda text: json.dumps(VALUES)[:-1] + f', "is_decoder": {text}}}')
TEXTS = hostile.changed(VALUES).map(json.dumps) | DEEP | WITH_DEEP


@hostile.examples(150)
@given(content=TEXTS.map(str.encode) | hostile.damaged(json.dumps(VALUES).encode()))
def test_a_changed_or_damaged_configuration_is_right_or_refused(folder, content):
    path = folder / "config.json"
    path.write_bytes(content)
    found = hostile.answer(lambda: BertConfig.from_folder(folder), InputError, path)
    if found is not None:
        values = json.loads(content.decode("utf-8-sig"))
        assert count_parameters(found) <= 10**11
        read = asdict(found)
        del read["first_position"]  # follows from model_type
        if read["embedding_size"] is None:  # only ELECTRA's is read
            del read["embedding_size"]
        assert all(values.get(key, value) in (value, None) for key, value in read.items())


@hostile.examples(80)
@given(
    data_of=hostile.changed({WORDS: {"dtype": "F32", "shape": [30, 12], "data_offsets": [0, 1440]}})
)
def test_a_changed_header_is_right_or_refused(folder, data_of):
    write(folder, tensors())
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    place = header[WORDS]["data_offsets"]
    if isinstance(data_of, dict):
        mine = data_of.get(WORDS)
        if isinstance(mine, dict) and mine.get("data_offsets") == [0, 1440]:
            mine["data_offsets"] = place
        data_of = {**{k: v for k, v in header.items() if k != WORDS}, **data_of}
    content = json.dumps(data_of).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    found = hostile.answer(lambda: load(folder), InputError, path)
    if found is not None:
        expected = np.frombuffer(data[place[0] : place[1]], np.float32).reshape(30, 12)
        assert np.array_equal(found.embeddings.word_embeddings.weight.detach(), expected)


class Calls:
    """Its pickle, once loaded by a careless reader, calls a function."""

    def __init__(self, function, *arguments):
        self.called = (function, arguments)

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("kind", ["bin", "old bin"])
@pytest.mark.parametrize(("function", "arguments"), [
    (os.mkdir, ["{}"]), (eval, ["open('{}', 'w')"]), (functools.partial, [os.mkdir, "{}"]),
])  # fmt: skip
def test_a_pickle_that_calls_anything_is_refused_uncalled(folder, function, arguments, kind):
    sign = folder / "executed"
    arguments = [*arguments[:-1], arguments[-1].format(sign)]
    write(folder, {**tensors(), "more": Calls(function, *arguments)}, kind)
    assert "tensors" in refused(folder)
    assert not sign.exists()


ZEROS = torch.zeros(30, 12)


@pytest.mark.parametrize("make", [
    ZEROS.to_sparse, lambda: ZEROS.to("meta"), lambda: [ZEROS],
    lambda: torch.quantize_per_tensor(ZEROS, 0.1, 0, torch.quint8),
    lambda: torch.nested.nested_tensor([torch.zeros(20, 12), torch.zeros(10, 12)]),
], ids=["sparse", "meta", "list", "quantized", "nested"])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_tensor_is_refused(folder, make):
    for kind in ("bin", "old bin"):
        try:
            write(folder, {**tensors(), WORDS: make()}, kind)
        except (RuntimeError, NotImplementedError):
            continue  # torch can't write it in this format
        refused(folder)


@pytest.mark.parametrize("kind", ["bin", "old bin"])
def test_a_few_bytes_that_claim_to_be_gigabytes_are_refused(folder, kind):
    large = replace(CONFIG, vocab_size=2**24)
    write(folder, {**tensors(), WORDS: torch.zeros(1).expand(2**24, 12)}, kind)
    assert (folder / "pytorch_model.bin").stat().st_size < 100_000
    assert "bytes of numbers" in refused(folder, large)


def test_a_packed_file_is_refused_packed(folder):
    write(folder, tensors(), "bin")
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + bytes(10**8 if name.endswith(".pkl") else 0))
    assert path.stat().st_size < 10**6
    assert "is packed" in refused(folder)


def test_weights_that_are_no_numbers_are_refused_before_the_first_cell(folder):
    request = {"checkpoint": str(folder)}
    assert list(check.answers_to(request)) == ["loaded"]
    for value in (float("nan"), float("inf")):
        named = tensors()
        named[WORDS][3, 2] = value
        write(folder, named)
        with pytest.raises(InputError, match=r"word_embeddings\.weight holds NaN or infinite"):
            list(check.answers_to(request))


def test_a_checkpoint_that_never_ends_loading_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(check, "PATIENCE_S", 0.01)
    with pytest.raises(Refused, match=r"could not be loaded in 0\.01 s"):
        check.check_checkpoint(folder, "never seen")
