"""Token ids against transformers' BertTokenizer on real text, and files that are no tokenizer."""

import csv
import json
import shutil
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from minbert.data.tokenizer import Tokenizer
from minbert.errors import InputError
from tests.components import CS224N, need
from tests.hostile import answer, changed, check_line, damaged, examples, nested, sparse
from tests.minbert import peers

SENTENCE = ("unbelievably", "good", "tokenisation", "of", "a", "film") * 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "Good", "caf", "##e", "##é", "中"]


def their_tokenizer(folder):
    return peers.transformers().BertTokenizer.from_pretrained(folder)


def texts_of(encoded):
    return [part.tolist() for part in np.split(encoded.input_ids, encoded.offsets[1:-1])]


def types_of(encoded):
    return [part.tolist() for part in np.split(encoded.token_type_ids, encoded.offsets[1:-1])]


@pytest.fixture
def folder(tmp_path):
    """A folder with a vocab.txt alone."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def loaded(minilm, tmp_path_factory):
    """transformers' tokenizer of minilm, and ours of it with and without its tokenizer.json."""
    alone = tmp_path_factory.mktemp("vocabulary")
    shutil.copyfile(minilm / "vocab.txt", alone / "vocab.txt")
    return their_tokenizer(minilm), [Tokenizer.from_folder(folder) for folder in (minilm, alone)]


def test_sentences_agree_with_transformers(minilm):
    path = CS224N / "ids-sst-dev.csv"
    need(path.is_file(), f"the shared data ({path})", component="shared")
    with path.open(encoding="utf-8", newline="") as file:
        sentences = [row["sentence"] for row in csv.DictReader(file, delimiter="\t")]
    theirs = their_tokenizer(minilm)(sentences, truncation=True, max_length=16)
    encoded = Tokenizer.from_folder(minilm).encode(sentences, None, 16)
    assert texts_of(encoded) == theirs["input_ids"]
    assert types_of(encoded) == theirs["token_type_ids"]
    assert encoded.lengths.tolist() == [len(ids) for ids in theirs["input_ids"]]
    assert len(encoded) == len(sentences)


@settings(deadline=None, max_examples=200)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
@example(text="a [SEP] b[MASK]c [CLS]")
def test_any_text_agrees_with_transformers(loaded, text):
    theirs, ours = loaded
    ids = theirs(text, truncation=True, max_length=24)["input_ids"]
    for tokenizer in ours:
        assert texts_of(tokenizer.encode([text], None, 24)) == [ids]


def test_padding_and_truncation_of_the_file_are_off(minilm):
    written = json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["truncation"]["max_length"] == written["padding"]["strategy"]["Fixed"] == 128
    encoded = Tokenizer.from_folder(minilm).encode(["good", "good " * 300], None, 200)
    assert encoded.lengths.tolist() == [3, 200]


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_too_long_is_cut_as_the_library_cuts_it_and_counted(minilm, pairs):
    texts = [" ".join(SENTENCE[:size]) for size in range(9)]
    first, second = zip(*((a, b) for a in texts for b in texts), strict=True)
    given_texts = list(zip(first, second, strict=True)) if pairs else list(first)
    tokenizer = Tokenizer.from_folder(minilm)
    library = Library.from_file(str(minilm / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    whole = [len(found) for found in library.encode_batch(given_texts)]
    for max_length in range(4, 20):
        library.enable_truncation(max_length, strategy="longest_first")
        expected = library.encode_batch(given_texts)
        found = tokenizer.encode(first, second if pairs else None, max_length)
        assert texts_of(found) == [of.ids for of in expected]
        assert types_of(found) == [of.type_ids for of in expected]
        assert found.cut is not None
        assert found.cut.tolist() == [max(0, length - max_length) for length in whole]


def test_the_settings_beside_a_vocabulary_are_heeded(folder):
    def ids(**settings):
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return texts_of(Tokenizer.from_folder(folder).encode(["Good café中"], None, 16))[0][1:-1]

    assert ids() == [5, 7, 8, 10]
    assert ids(do_lower_case=False) == [6, 7, 9, 10]
    assert ids(strip_accents=False) == [5, 7, 9, 10]
    assert ids(do_lower_case=False, strip_accents=True) == [6, 7, 8, 10]
    assert ids(tokenize_chinese_chars=False) == [5, 1]
    (folder / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())  # as Windows ends lines
    assert ids() == [5, 7, 8, 10]


@pytest.mark.parametrize("cased", [True, False])
def test_settings_overrule_a_tokenizer_file_as_in_transformers(minilm, tmp_path, cased):
    written = json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))
    written["normalizer"]["lowercase"] = cased
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
    texts = ["Good Café 中中"]
    expected = their_tokenizer(tmp_path)(texts)["input_ids"]
    assert (100 in expected[0]) == cased  # [UNK]: the vocabulary has no capitals
    assert texts_of(Tokenizer.from_folder(tmp_path).encode(texts, None, 16)) == expected


def test_no_texts_and_empty_texts(folder):
    tokenizer = Tokenizer.from_folder(folder)
    none = tokenizer.encode([], None, 8)
    assert len(none) == 0
    assert none.lengths.tolist() == []
    assert none.input_ids.dtype == np.int32
    assert texts_of(tokenizer.encode([""], None, 8)) == [[2, 3]]
    assert texts_of(tokenizer.encode([""], [""], 8)) == [[2, 3, 3]]


def test_more_texts_than_are_encoded_at_once_keep_their_order(folder):
    texts = ["good " * (number % 7) for number in range(2500)]
    encoded = Tokenizer.from_folder(folder).encode(texts, None, 16)
    assert (encoded.lengths == [2 + number % 7 for number in range(2500)]).all()
    assert encoded.offsets[-1] == len(encoded.input_ids) == len(encoded.token_type_ids)


def test_a_length_without_room_and_unequal_columns_are_refused(folder):
    tokenizer = Tokenizer.from_folder(folder)
    with pytest.raises(ValueError, match="leaves no room"):
        tokenizer.encode(["good"], None, 2)
    with pytest.raises(ValueError, match="leaves no room"):
        tokenizer.encode(["good"], ["good"], 3)
    with pytest.raises(ValueError, match="shorter"):
        tokenizer.encode(["good", "good"], ["good"], 8)


def test_another_kind_of_tokenizer_is_refused(folder):
    from tokenizers.models import WordLevel

    ids = {word: number for number, word in enumerate(WORDS)}
    Library(WordLevel(ids, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))  # noqa: S106
    with pytest.raises(InputError, match="is not WordPiece"):
        Tokenizer.from_folder(folder)


def test_a_vocabulary_larger_than_its_encoder_is_refused(folder):
    config = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
              "intermediate_size": 4, "vocab_size": len(WORDS)}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer.from_folder(folder)
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": len(WORDS) - 1}))
    with pytest.raises(InputError, match="token id 10"):
        Tokenizer.from_folder(folder)


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", "##s", "a"]
SPOKEN = ["good films", "", "[CLS] a [SEP]", "x" * 300, "\u202e \x00 \u0301 中 ﷺ", "aaaa aaaa!"]


def written():
    """A tokenizer.json, as the library writes it."""
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    library = Library(WordPiece(ids, unk_token="[UNK]"))  # noqa: S106
    library.normalizer = BertNormalizer()
    library.pre_tokenizer = BertPreTokenizer()
    library.add_special_tokens(VOCABULARY[:5])
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
    "vocab.txt": damaged("\n".join(VOCABULARY).encode()),
    "tokenizer_config.json": changed({"do_lower_case": True, "strip_accents": None}).map(as_json),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@examples(120)
@given(data=st.data())
def test_changed_or_damaged_files_are_refused_or_can_be_used(tmp_path, name, data):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    path = tmp_path / name
    path.write_bytes(data.draw(FILES[name]))
    found = answer(lambda: Tokenizer.from_folder(tmp_path), InputError, path)
    if found is not None:
        check_ids(found)


def test_a_word_that_is_there_twice_has_its_last_id_as_in_transformers(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY, "good"]))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode(["good"], None, 8).input_ids.tolist() == [2, len(VOCABULARY), 3]


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
