"""Vocabularies and tokenizers of every wrong kind."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from minbert.data.tokenizer import Tokenizer
from minbert.errors import InputError
from tests.hostile import answer, changed, check_line, damaged, examples, nested, sparse

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", "##s", "a"]
SPOKEN = ["good films", "", "[CLS] a [SEP]", "x" * 300, "\u202e \x00 \u0301 中 ﷺ", "aaaa aaaa!"]


def written():
    """A tokenizer.json, as the library writes it."""
    ids = {word: number for number, word in enumerate(WORDS)}
    library = Library(WordPiece(ids, unk_token="[UNK]"))  # noqa: S106
    library.normalizer = BertNormalizer()
    library.pre_tokenizer = BertPreTokenizer()
    library.add_special_tokens(WORDS[:5])
    return json.loads(library.to_str())


WRITTEN = written()


def check_ids(tokenizer):
    """Fail unless texts become ids that the vocabulary has, between [CLS] and [SEP]."""
    for pairs in (None, SPOKEN[::-1]):
        encoded = tokenizer.encode(SPOKEN, pairs, 12)
        assert len(encoded) == len(SPOKEN)
        assert 2 <= encoded.lengths.min() <= encoded.lengths.max() <= 12
        assert 0 <= encoded.input_ids.min() <= encoded.input_ids.max() <= tokenizer.highest_id
        first = encoded.input_ids[encoded.offsets[:-1]]
        last = encoded.input_ids[encoded.offsets[1:] - 1]
        assert len({*first}) == len({*last}) == 1


def refused(folder):
    with pytest.raises(InputError) as caught:
        Tokenizer.from_folder(folder)
    check_line(str(caught.value), folder)
    return str(caught.value)


def as_json(values):
    return json.dumps(values).encode()


PARTS = st.sampled_from(["model", "normalizer", "pre_tokenizer", "added_tokens"]).flatmap(
    lambda part: changed(WRITTEN[part]).map(lambda value: {**WRITTEN, part: value})
)
FILES = {
    "tokenizer.json": changed(WRITTEN).map(as_json) | PARTS.map(as_json)
    | damaged(as_json(WRITTEN)),
    "vocab.txt": damaged("\n".join(WORDS).encode()),
    "tokenizer_config.json": changed({"do_lower_case": True, "strip_accents": None}).map(as_json),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@examples(120)
@given(data=st.data())
def test_changed_or_damaged_files_are_refused_or_can_be_used(tmp_path, name, data):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    path = tmp_path / name
    path.write_bytes(data.draw(FILES[name]))
    found = answer(lambda: Tokenizer.from_folder(tmp_path), InputError, path)
    if found is not None:
        check_ids(found)


def test_a_word_that_is_there_twice_has_its_last_id_as_in_transformers(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "good"]))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode(["good"], None, 8).input_ids.tolist() == [2, len(WORDS), 3]


def test_nesting_of_any_depth_and_gigabytes_are_refused(tmp_path):
    for depth in (100, 200, 1000, 100_000):
        for text in (nested(depth), f'{{"normalizer": {nested(depth)}}}', '{"model": ' * depth):
            (tmp_path / "tokenizer.json").write_text(text)
            refused(tmp_path)
    sparse(tmp_path / "tokenizer.json", 2**36)
    assert "bytes" in refused(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    sparse(tmp_path / "vocab.txt", 2**36)
    assert "bytes" in refused(tmp_path)


def replacing(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def splitting(pattern):
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


NFC = {"type": "NFC"}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", replacing({"String": "a"}, "a" * 1000)),
        ("normalizer", replacing({"Regex": "(a+)+$"}, "")),
        ("normalizer", {"type": "Sequence", "normalizers": [NFC, replacing({"String": ""}, "x")]}),
        ("normalizer", {"type": "Sequence", "normalizers": [NFC] * 1000}),
        ("pre_tokenizer", splitting("(a+)+$")),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [splitting("(a|a)*b")]}),
        ("model", {**WRITTEN["model"], "max_input_chars_per_word": 10**9}),
        ("model", {**WRITTEN["model"], "unk_token": "<unk>"}),
        ("model", {**WRITTEN["model"], "vocab": {**WRITTEN["model"]["vocab"], "x": 2**32 - 1}}),
        ("model", {"type": "BPE", "vocab": {"[UNK]": 0}, "merges": []}),
    ],
)
def test_what_fails_or_takes_without_end_once_there_is_text_is_refused(tmp_path, part, value):
    (tmp_path / "tokenizer.json").write_text(json.dumps({**WRITTEN, part: value}))
    refused(tmp_path)


def test_a_long_word_takes_no_long_time(tmp_path):
    values = {**WRITTEN, "model": {**WRITTEN["model"], "max_input_chars_per_word": 1000}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    tokenizer = Tokenizer.from_folder(tmp_path)
    begun = time.process_time()
    tokenizer.encode(["a" * 2**17, "as" * 500, "a" * 1000], None, 128)
    assert time.process_time() - begun < 60
