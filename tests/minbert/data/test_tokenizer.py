"""Token ids against transformers' BertTokenizer, and files that are no tokenizer."""

import json
import shutil
from dataclasses import asdict

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
from tests.hostile import answer, changed, check_line, damaged, examples, nested, sparse
from tests.minbert import peers

SENTENCE = ("unbelievably", "good", "tokenisation", "of", "a", "film") * 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "Good", "caf", "##e", "##é", "中"]


def texts_of(encoded, name="input_ids"):
    return [part.tolist() for part in np.split(getattr(encoded, name), encoded.offsets[1:-1])]


@pytest.fixture
def folder(tmp_path):
    """Of a vocab.txt alone."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def loaded(minilm, tmp_path_factory):
    """transformers' tokenizer of minilm, and ours of it with and without its tokenizer.json."""
    alone = tmp_path_factory.mktemp("vocabulary")
    shutil.copyfile(minilm / "vocab.txt", alone / "vocab.txt")
    theirs = peers.transformers().BertTokenizer.from_pretrained(minilm)
    return theirs, [Tokenizer.from_folder(folder) for folder in (minilm, alone)]


@settings(max_examples=200)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
@example(text="a [SEP] b[MASK]c [CLS]")
def test_any_text_agrees_with_transformers(loaded, text):
    theirs, ours = loaded
    ids = theirs(text, truncation=True, max_length=24)["input_ids"]
    for tokenizer in ours:
        assert texts_of(tokenizer.encode([text], None, 24)) == [ids]


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_too_long_is_cut_as_the_library_cuts_it_and_counted(minilm, pairs):
    texts = [" ".join(SENTENCE[:size]) for size in range(9)]
    both = [(a, b) for a in texts for b in texts]
    tokenizer = Tokenizer.from_folder(minilm)
    library = Library.from_file(str(minilm / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    columns = [*map(list, zip(*both, strict=True))] if pairs else [texts, None]
    whole = [len(encoding) for encoding in library.encode_batch(both if pairs else texts)]
    for max_length in range(4, 20):
        library.enable_truncation(max_length, strategy="longest_first")
        expected = library.encode_batch(both if pairs else texts)
        encoded = tokenizer.encode(*columns, max_length)
        assert texts_of(encoded) == [of.ids for of in expected]
        assert texts_of(encoded, "token_type_ids") == [of.type_ids for of in expected]
        assert encoded.cut.tolist() == [max(0, length - max_length) for length in whole]


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
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "good"]))
    assert ids()[0] == len(WORDS), "the last of a word that is there twice, as in transformers"


@pytest.mark.parametrize("cased", [True, False])
def test_settings_overrule_a_tokenizer_file_as_in_transformers(minilm, tmp_path, cased):
    written = json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))
    written["normalizer"]["lowercase"] = cased
    written["model"]["max_input_chars_per_word"] = 1000  # the most
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
    texts = ["Good Café 中中"]
    theirs = peers.transformers().BertTokenizer.from_pretrained(tmp_path)
    expected = theirs(texts)["input_ids"]
    assert written["truncation"]["max_length"] == 128, "which does not count"
    assert (100 in expected[0]) == cased  # [UNK]: the vocabulary has no capitals
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert texts_of(tokenizer.encode(texts, None, 16)) == expected
    assert tokenizer.encode(["good " * 300], None, 200).lengths == [200]


def test_any_number_of_texts_keep_their_order_and_some_are_refused(folder):
    tokenizer = Tokenizer.from_folder(folder)
    none = tokenizer.encode([], None, 8)
    assert len(none) == len(none.lengths) == 0
    assert none.input_ids.dtype == np.int32
    assert texts_of(tokenizer.encode([""], [""], 8)) == [[2, 3, 3]]
    many = tokenizer.encode(["good " * (number % 7) for number in range(2500)], None, 16)
    assert (many.lengths == [2 + number % 7 for number in range(2500)]).all()
    assert many.offsets[-1] == len(many.input_ids) == len(many.token_type_ids)
    for second, length in ((None, 2), (["good"], 3)):
        with pytest.raises(ValueError, match="leaves no room"):
            tokenizer.encode(["good"], second, length)
    with pytest.raises(ValueError, match="shorter"):
        tokenizer.encode(["good", "good"], ["good"], 8)


def test_a_vocabulary_larger_than_its_encoder_is_refused(folder):
    sizes = asdict(peers.sizes(4, 1, 1, 4, len(WORDS), 8))
    (folder / "config.json").write_text(json.dumps(sizes))
    Tokenizer.from_folder(folder)
    (folder / "config.json").write_text(json.dumps({**sizes, "vocab_size": len(WORDS) - 1}))
    with pytest.raises(InputError, match="token id 10"):
        Tokenizer.from_folder(folder)


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", "##s", "a"]
SPOKEN = ["good films", "", "[CLS] a [SEP]", "x" * 300, "\u202e \x00 \u0301 中 ﷺ", "aaaa aaaa!"]
IDS = {word: number for number, word in enumerate(VOCABULARY)}
LIBRARY = Library(WordPiece(IDS, unk_token="[UNK]"))  # noqa: S106
LIBRARY.normalizer, LIBRARY.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
LIBRARY.add_special_tokens(VOCABULARY[:5])
WRITTEN = json.loads(LIBRARY.to_str())


def refused(folder):
    with pytest.raises(InputError) as caught:
        Tokenizer.from_folder(folder)
    check_line(str(caught.value), folder)
    return str(caught.value)


PARTS = st.sampled_from(["model", "normalizer", "pre_tokenizer", "added_tokens"]).flatmap(
    lambda part: changed(WRITTEN[part]).map(lambda value: {**WRITTEN, part: value})
)
SETTINGS = changed({"do_lower_case": True, "strip_accents": None})
DAMAGED = damaged(LIBRARY.to_str().encode())
FILES = {
    "tokenizer.json": changed(WRITTEN).map(json.dumps) | PARTS.map(json.dumps) | DAMAGED,
    "vocab.txt": damaged("\n".join(VOCABULARY).encode()),
    "tokenizer_config.json": SETTINGS.map(json.dumps),
}


@pytest.mark.parametrize("name", FILES)
@examples(120)
@given(data=st.data())
def test_changed_or_damaged_files_are_refused_or_can_be_used(tmp_path, name, data):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    path = tmp_path / name
    content = data.draw(FILES[name])
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tokenizer = answer(lambda: Tokenizer.from_folder(tmp_path), InputError, path)
    if tokenizer is None:
        return
    for pairs in (None, SPOKEN[::-1]):
        encoded = tokenizer.encode(SPOKEN, pairs, 12)
        assert len(encoded) == len(SPOKEN)
        assert 2 <= encoded.lengths.min() <= encoded.lengths.max() <= 12
        assert 0 <= encoded.input_ids.min() <= encoded.input_ids.max() <= tokenizer.highest_id
        first = encoded.input_ids[encoded.offsets[:-1]]
        last = encoded.input_ids[encoded.offsets[1:] - 1]
        assert len({*first}) == len({*last}) == 1, "[CLS] and [SEP]"


def test_nesting_of_any_depth_and_gigabytes_are_refused(tmp_path):
    for depth in (200, 100_000):
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


SPLITTING = {"type": "Split", "behavior": "Isolated", "invert": False}
NFC = {"type": "NFC"}
STEPS = {"type": "Sequence", "normalizers": [NFC, replacing({"String": ""}, "x")]}


@pytest.mark.parametrize(("part", "value"), [
    ("normalizer", replacing({"String": "a"}, "a" * 1000)),
    ("normalizer", replacing({"Regex": "(a+)+$"}, "")),
    ("normalizer", STEPS),
    ("normalizer", {**STEPS, "normalizers": [NFC] * 1000}),
    ("pre_tokenizer", {**SPLITTING, "pattern": {"Regex": "(a+)+$"}}),
    ("model", {**WRITTEN["model"], "max_input_chars_per_word": 1001}),
    ("model", {**WRITTEN["model"], "unk_token": "<unk>"}),
    ("model", {**WRITTEN["model"], "vocab": {**IDS, "x": 2**32 - 1}}),
    ("model", {"type": "WordLevel", "vocab": IDS, "unk_token": "[UNK]"}),
])  # fmt: skip
def test_what_fails_or_takes_without_end_once_there_is_text_is_refused(tmp_path, part, value):
    (tmp_path / "tokenizer.json").write_text(json.dumps({**WRITTEN, part: value}))
    refused(tmp_path)
