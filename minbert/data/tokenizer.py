"""Text to token ids: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` for a pair, cut to a length."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import BertProcessing

from minbert.data.encoded import Encoded
from minbert.errors import InputError
from minbert.files import (
    CONFIG,
    LARGEST_VOCABULARY,
    VOCABULARIES,
    is_file,
    read_bytes,
    read_json,
    tokenizer_files,
)
from minbert.model.config import BertConfig

_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_SETTINGS: Final = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",  # null: where the case goes, accents go too
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Keys of a tokenizer_config.json, and the library's names for them."""
_CHUNK: Final = 1024
"""Texts passed to the library at once: its results take ten times the memory of the ids."""

_STEPS: Final = {
    "BertNormalizer", "BertPreTokenizer", "Digits", "Lowercase", "NFC", "NFD", "NFKC", "NFKD",
    "Punctuation", "Sequence", "Strip", "StripAccents", "Whitespace", "WhitespaceSplit",
}  # fmt: skip
"""Ways to normalise and split text whose cost is known. Others contain patterns and replacements
from the file, which can take any time and make texts of any length."""
_STEP: Final = re.compile(r'"type": ?"(\w+)"')
"""A step in the JSON of a normaliser or pre-tokeniser, in which quotes of texts are escaped."""
_MOST_STEPS: Final = 16
_LONGEST_WORD: Final = 1000
"""Characters; the time for a word grows with their square. Most vocabularies turn words of more
than 100 into [UNK]."""
_HIGHEST_ID: Final = 2**31 - 1


class TextEncoder:
    """A tokenizer of the library, without its padding and truncation; `origin` is the tokenizer of
    transformers that it is the backend of, if it is."""

    def __init__(self, backend: tokenizers.Tokenizer, origin: Any = None) -> None:
        self.origin = origin
        backend.no_padding()
        backend.no_truncation()  # `encode` cuts, and counts what it cuts
        self._backend = backend

    @property
    def highest_id(self) -> int:
        return max(self._backend.get_vocab().values(), default=0)

    def encode(
        self,
        text_a: Sequence[str],
        text_b: Sequence[str] | None,
        max_length: int,
        *,
        by_word: bool = False,
    ) -> Encoded:
        """Token ids of texts, or of pairs where `text_b` is given.

        An example of more than `max_length` tokens, special ones included, is cut at the end; of a
        pair first the longer text is cut, then both. With `by_word` the words of texts, between
        single spaces, are split into tokens one by one. ValueError if `max_length` leaves no room
        for [CLS] and [SEP], or there are not as many second texts as first ones.
        """
        backend = self._backend
        special = backend.num_special_tokens_to_add(text_b is not None)
        if max_length <= special:
            raise ValueError(f"max_length {max_length} leaves no room beside the special tokens")
        texts: Sequence[Any] = text_a if text_b is None else list(zip(text_a, text_b, strict=True))
        if by_word:
            texts = [text.split(" ") for text in text_a]
            if isinstance(steps := backend.pre_tokenizer, ByteLevel):  # else words were one word
                steps.add_prefix_space = True
                backend.pre_tokenizer = steps
        tokens = np.zeros(len(texts), dtype=np.int64)
        ids, types = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int8)]
        words = [np.empty(0, dtype=np.int32)]
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            encodings = backend.encode_batch(chunk, is_pretokenized=by_word)
            lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
            tokens[start : start + _CHUNK] = lengths
            long = np.flatnonzero(lengths > max_length).tolist()
            backend.enable_truncation(max_length)
            cuts = [chunk[place] for place in long]
            shortened = backend.encode_batch(cuts, is_pretokenized=by_word)
            for place, cut in zip(long, shortened, strict=True):
                encodings[place] = cut
            backend.no_truncation()
            ids.append(np.fromiter(chain.from_iterable(each.ids for each in encodings), np.int32))
            kinds = chain.from_iterable(each.type_ids for each in encodings)
            types.append(np.minimum(np.fromiter(kinds, np.int8), 1))  # some libraries have more
            if by_word:
                firsts = chain.from_iterable(_first_pieces(each.word_ids) for each in encodings)
                words.append(np.fromiter(firsts, np.int32))
        left = np.minimum(tokens, max_length)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(left)])
        return Encoded(
            np.concatenate(ids), np.concatenate(types), offsets, tokens - left,
            np.concatenate(words) if by_word else None,
        )  # fmt: skip


def _first_pieces(words: Sequence[int | None]) -> Iterator[int]:
    """What `Encoded.words` has for the tokens of a text, from the word of each."""
    before = None
    for word in words:
        yield -1 if word is None else -2 if word == before else word
        before = word


class Tokenizer(TextEncoder):
    """WordPiece as a checkpoint's files define it."""

    def __init__(self, wordpiece: tokenizers.Tokenizer, source: Path) -> None:
        ids = wordpiece.get_vocab()
        missing = [name for name in _SPECIAL if name not in ids]
        if missing or not isinstance(wordpiece.model, WordPiece):
            lack = f"lacks {', '.join(missing)}" if missing else "is not WordPiece"
            raise InputError(f"{source}: {lack}, so it is no BERT vocabulary")
        if problem := _problem(wordpiece):
            raise InputError(f"{source}: {problem}, as no BERT vocabulary does")
        super().__init__(wordpiece)
        if self.highest_id > _HIGHEST_ID:
            raise InputError(f"{source}: has a token id {self.highest_id}, above {_HIGHEST_ID}")
        wordpiece.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """The tokenizer of the checkpoint in a folder, from tokenizer.json or else vocab.txt.
        InputError: no such folder or file, a file that is broken or of another kind of tokenizer,
        or more tokens than the folder's encoder has embeddings for."""
        vocabulary, *settings = tokenizer_files(folder)
        read = _from_json if vocabulary.name == VOCABULARIES[0] else _from_vocabulary
        wordpiece = read(vocabulary)
        for path in settings:
            _apply_settings(wordpiece, path)
        tokenizer = cls(wordpiece, vocabulary)
        if is_file(folder / CONFIG):
            highest, rows = tokenizer.highest_id, BertConfig.from_folder(folder).vocab_size
            if highest >= rows:
                raise InputError(
                    f"{vocabulary}: has a token id {highest}, and the encoder beside it "
                    f"embeddings for {rows}; the files are not of one checkpoint"
                )
        return tokenizer

    def to_json(self) -> str:
        """The text of a tokenizer.json of the same tokens, without padding and truncation."""
        return str(self._backend.to_str(pretty=True))


def _problem(wordpiece: tokenizers.Tokenizer) -> str | None:
    """The reason why a tokenizer would fail or never end on some text; None: there is none."""
    model = wordpiece.model
    if model.unk_token not in wordpiece.get_vocab(with_added_tokens=False):
        return f"calls unknown words {ascii(model.unk_token)[:60]}, which it does not hold"
    if model.max_input_chars_per_word > _LONGEST_WORD:
        return f"takes words of over {_LONGEST_WORD} characters apart"
    for part in (wordpiece.normalizer, wordpiece.pre_tokenizer):
        if part is None or isinstance(part, BertNormalizer | BertPreTokenizer):
            continue
        steps = _STEP.findall(part.__getstate__().decode())
        if strange := [step for step in steps if step not in _STEPS]:
            return f"changes or splits text by {strange[0]!r}"
        if len(steps) > _MOST_STEPS:
            return f"changes or splits text in {len(steps)} steps"
    return None


def _from_json(path: Path) -> tokenizers.Tokenizer:
    content = read_bytes(path, LARGEST_VOCABULARY)
    try:
        return tokenizers.Tokenizer.from_str(content.decode())
    except BaseException as error:  # what the library raises has no narrower name
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = ascii(" ".join(str(error).split()))[1:200]
        raise InputError(f"{path}: is no tokenizer ({reason}); download it again") from error


def _from_vocabulary(path: Path) -> tokenizers.Tokenizer:
    content = read_bytes(path, LARGEST_VOCABULARY)
    try:
        text = content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; download it again") from error
    lines = text.removesuffix("\n").split("\n")
    ids = {token: number for number, token in enumerate(lines)}
    wordpiece = tokenizers.Tokenizer(WordPiece(ids, unk_token="[UNK]"))  # noqa: S106
    wordpiece.normalizer = BertNormalizer()
    wordpiece.pre_tokenizer = BertPreTokenizer()
    wordpiece.add_special_tokens([name for name in (*_SPECIAL, "[MASK]") if name in ids])
    return wordpiece


def _apply_settings(wordpiece: tokenizers.Tokenizer, path: Path) -> None:
    """Apply the normalisation of a tokenizer_config.json, which overrules a tokenizer.json."""
    normalizer, settings = wordpiece.normalizer, read_json(path)
    if not isinstance(normalizer, BertNormalizer):
        return
    for key, attribute in _SETTINGS.items():
        value = settings.get(key, getattr(normalizer, attribute))
        if not isinstance(value, bool) and not (value is None and key == "strip_accents"):
            raise InputError(f"{path}: {key} must be true or false")
        setattr(normalizer, attribute, value)
    wordpiece.normalizer = normalizer
