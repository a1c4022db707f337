"""Text to token ids: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]` for a pair, cut to a length."""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray
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
        stride: int = 0,
    ) -> Encoded:
        """Token ids of texts, or of pairs where `text_b` is given.

        An example of more than `max_length` tokens, special ones included, is cut at the end; of a
        pair first the longer text is cut, then both. With `by_word` the words of texts, between
        single spaces, are split into tokens one by one, and with a stride longer texts are not cut,
        but read in windows that share so many tokens. ValueError if `max_length` leaves no room for
        [CLS] and [SEP] and the stride, or there are not as many second texts as first ones.
        """
        backend = self._backend
        special = backend.num_special_tokens_to_add(text_b is not None)
        if max_length <= special + stride:
            raise ValueError(f"max_length {max_length} leaves no room beside the special tokens")
        texts: Sequence[Any] = text_a if text_b is None else list(zip(text_a, text_b, strict=True))
        if by_word:
            texts = [text.split(" ") for text in text_a]
            if isinstance(steps := backend.pre_tokenizer, ByteLevel):  # else words were one word
                steps.add_prefix_space = True
                backend.pre_tokenizer = steps
        tokens, windows = np.zeros(len(texts), dtype=np.int64), np.ones(len(texts), dtype=np.int64)
        ids, types = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int8)]
        words, sizes = [np.empty(0, dtype=np.int32)], list[int]()
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            encodings = backend.encode_batch(chunk, is_pretokenized=by_word)
            lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
            tokens[start : start + _CHUNK] = lengths
            long = np.flatnonzero(lengths > max_length).tolist()
            backend.enable_truncation(max_length, stride=stride)
            shortened = backend.encode_batch([chunk[n] for n in long], is_pretokenized=by_word)
            every = [[encoding] for encoding in encodings]
            for place, first in zip(long, shortened, strict=True):
                every[place] = [first, *first.overflowing] if stride else [first]
                windows[start + place] = len(every[place])
            backend.no_truncation()
            encodings = [*chain.from_iterable(every)]
            ids.append(np.fromiter(chain.from_iterable(each.ids for each in encodings), np.int32))
            kinds = chain.from_iterable(each.type_ids for each in encodings)
            types.append(np.minimum(np.fromiter(kinds, np.int8), 1))  # some libraries have more
            if by_word:
                words += [_read_once(each) if len(each) > 1 else _firsts(each[0]) for each in every]
            sizes += map(len, encodings)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])
        text_of = np.repeat(np.arange(len(texts)), windows) if stride else None
        cut = np.zeros(len(sizes), dtype=np.int64) if stride else tokens - np.diff(offsets)
        return Encoded(
            np.concatenate(ids), np.concatenate(types), offsets, cut,
            np.concatenate(words) if by_word else None, text_of,
        )  # fmt: skip


def _firsts(encoding: tokenizers.Encoding) -> NDArray[np.int32]:
    """What `Encoded.words` has for the tokens of a text."""
    words = encoding.word_ids
    pairs = zip(words, (None, *words), strict=False)
    return np.fromiter((-1 if w is None else -2 if w == b else w for w, b in pairs), np.int32)


def _read_once(windows: Sequence[tokenizers.Encoding]) -> NDArray[np.int32]:
    """The same of the windows over a text, each word read in the first of those in which the side
    with fewer tokens has most, as BERT reads answers of SQuAD."""
    numbers, room = [*map(_firsts, windows)], []
    for each in numbers:
        places, read = np.arange(len(each)), np.flatnonzero(each != -1)
        room.append(np.minimum(places - read[0], read[-1] - places))
    words, least = np.concatenate(numbers), np.concatenate(room)
    firsts = np.flatnonzero(words >= 0)
    order = firsts[np.lexsort((-least[firsts], words[firsts]))]
    chosen = order[np.unique(words[order], return_index=True)[1]]
    once = np.where(words < 0, words, -2)
    once[chosen] = words[chosen]
    return once


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
