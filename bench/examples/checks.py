"""What people check by hand in data: duplicates, leaks, conflicting labels, lengths, encoding.

Examples are compared by 64-bit digests of their normalised texts, in numpy: a million of them take
tens of megabytes. Near duplicates are pairs whose sets of character 5-grams overlap by 80% or more.
Candidates are found by MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3), and their Jaccard similarity is then computed, so
that no pair is reported in error, and one at the threshold is missed once in 500,000 times.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.messages import printable
from bench.common.progress import ShowStep
from bench.examples.tokens import auto_max_length, share_cut
from bench.plan.dataset import CONTROL, Affected, Checks, Lengths
from minbert.data.problems import problem_of
from minbert.data.tasks import Examples, TaskData
from minbert.data.tasks.splitting import normalised
from minbert.data.words import joined

SAMPLE: Final = 20_000
"""Most distinct texts among which near duplicates are searched; up to half of them are of dev."""
STEPS: Final = ("duplicates", "near duplicates", "labels and characters", "lengths")
SHOWN: Final = 5
"""Examples that are shown of a finding."""
_LONGEST: Final = 100  # characters of a text that are shown
_PERCENTILES: Final = (50, 90, 95, 99, 100)
_BINS: Final = 40
_MOST_LABELS: Final = 4

_CONTINUED: Final = "\u0080-\u00bfŒœŠšŸŽžƒˆ˜‚„†‡•‰‹›€™"
"""The second byte of a character of UTF-8, as Latin-1 and Windows-1252 read it. Without quotation
marks, dashes and the ellipsis, which may also follow a capital letter at the end of a word."""
PROBLEMS: Final = {
    "replacement characters": re.compile("\ufffd"),
    "UTF-8 read as Latin-1": re.compile(
        f"[ÂÃ](?![«»])[{_CONTINUED}]|(?:[Â-ÅÎ-Ñ][{_CONTINUED}]){{2}}"
        "|â[€\u0080][\u0080-\u00bf™œ˜“”†‡‰‹›]|ð[Ÿ\u009f]|ï»¿"
    ),
    CONTROL: re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "lone surrogates": re.compile("[\ud800-\udfff]"),
}
"""Signs of text that was decoded wrongly, by kind."""

N: Final = 5
"""Characters of an n-gram."""
THRESHOLD: Final = 0.8
"""The least Jaccard similarity of near duplicates."""
LONGEST: Final = 2000
"""Characters of a text that are compared, from its beginning."""
_BANDS: Final = 25
_ROWS: Final = 4
_MOST_CANDIDATES: Final = 5_000_000
"""Candidates that are looked at; where most texts are alike, the search ends early."""
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)

TRAIN, DEV = 0, 1
_SIDES: Final = ((TRAIN, TRAIN), (TRAIN, DEV), (DEV, TRAIN), (DEV, DEV))

Keys = NDArray[np.uint64]
Pairs = dict[tuple[int, int], dict[int, int]]
"""By two sides, for each text of the one that has a near duplicate on the other, both indices."""


def check(
    data: TaskData,
    tokens: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    longest: int = 512,
    progress: ShowStep = lambda _number, _name: None,
) -> Checks:
    """What is wrong or unusual with the training and dev examples of a task.

    Args:
        tokens: `token_lengths` of the training and the dev examples; None without a model.
        longest: the model's positions.
        progress: called as each of `STEPS` begins, with its number and name.
    """
    train, dev = data.train, data.dev
    progress(0, STEPS[0])
    keys = _keys(train), _keys(dev)
    duplicates, exact = _duplicates(data, *keys), _leaks(data, *keys)
    progress(1, STEPS[1])
    sample = _Sample(data, *keys)
    progress(2, STEPS[2])
    conflicts = _conflicts(data, np.concatenate(keys))
    encoding = {
        name: finding
        for name, pattern in PROBLEMS.items()
        if (finding := _where(data, partial(_has, pattern))).total
    }
    empty = _where(data, lambda text: not text.strip())
    progress(3, STEPS[3])
    units: dict[str, Callable[[str], int]] = {"characters": len, "words": lambda t: len(t.split())}
    lengths = [
        _lengths(unit, _counted(length, train), _counted(length, dev))
        for unit, length in units.items()
    ]
    chosen = None
    if tokens is not None:
        lengths.append(_lengths("tokens", *tokens))
        chosen = auto_max_length(tokens[0], longest)
    return Checks(
        duplicates=duplicates,
        leaks=exact,
        near_duplicates=sample.finding((TRAIN, TRAIN), (DEV, DEV)),
        near_leaks=sample.finding((TRAIN, DEV), (DEV, TRAIN)),
        compared=sample.compared,
        distinct=sample.distinct,
        conflicts=conflicts,
        empty=empty,
        encoding=encoding,
        lengths=tuple(lengths),
        max_length=chosen,
        tokens_cut=None if tokens is None or chosen is None else share_cut(tokens[0], chosen),
    )


def leaks(data: TaskData) -> NDArray[np.int64]:
    """Indices of the training examples, in order, whose normalised text (of pairs, both texts) is
    that of a dev example or a near duplicate of one. Those are searched among at most `SAMPLE`
    distinct texts, chosen by digest, so in larger data some remain."""
    keys = _keys(data.train), _keys(data.dev)
    sample = _Sample(data, *keys)
    near = sample.keys[[*sample.near[TRAIN, DEV]]]
    return np.flatnonzero(np.isin(keys[0], np.concatenate([keys[1], near])))


def _keys(examples: Examples) -> Keys:
    """A digest of the normalised text of each example, or of both texts; [N]."""
    digests = (
        blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for key in map(_key, *examples.columns)
    )
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _key(*texts: str) -> str:
    return "\0".join(map(normalised, texts))


def _texts(examples: Examples, index: int) -> tuple[str, ...]:
    return tuple(column[index] for column in examples.columns)


def _located(data: TaskData, index: int) -> tuple[Examples, int]:
    """The side and the index there of an example, where those of dev follow those of training."""
    count = len(data.train)
    return (data.train, index) if index < count else (data.dev, index - count)


def shown(*texts: str) -> str:
    """Texts on one line, shortened, with escapes for characters that are invisible."""
    room = _LONGEST // len(texts)
    lines = [" ".join(text[: 2 * room].split()) or "(empty)" for text in texts]
    lines = [*map(printable, lines)]
    return " / ".join(f"{line[: room - 1]}…" if len(line) > room else line for line in lines)


def _duplicates(data: TaskData, train: Keys, dev: Keys) -> Affected:
    numbers, lines = [], []
    for side, examples, keys in (("train", data.train, train), ("dev", data.dev, dev)):
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        numbers.append(len(keys) - len(first))
        order = np.lexsort((first, -counts))[:SHOWN]
        lines += [
            f"{counts[at]} times in {side}: {shown(*_texts(examples, int(first[at])))}"
            for at in order
            if counts[at] > 1
        ]
    return Affected(train=numbers[0], dev=numbers[1], shown=tuple(lines[:SHOWN]))


def _leaks(data: TaskData, train: Keys, dev: Keys) -> Affected:
    leaked = np.flatnonzero(np.isin(train, dev))
    _, first = np.unique(train[leaked], return_index=True)
    lines = [shown(*_texts(data.train, int(leaked[at]))) for at in np.sort(first)[:SHOWN]]
    return Affected(
        train=len(leaked), dev=int(np.isin(dev, train[leaked]).sum()), shown=tuple(lines)
    )


class _Sample:
    """Near duplicates among the distinct texts of a task; of many, among a sample by digest.

    Attributes:
        distinct, compared: the number of distinct texts, and of those that were compared.
        keys: of the texts of the sample.
        near: the near duplicates among those of the sample.
    """

    def __init__(self, data: TaskData, train: Keys, dev: Keys) -> None:
        keys, first = np.unique(np.concatenate([train, dev]), return_index=True)
        on_side = np.stack([np.isin(keys, side) for side in (train, dev)])
        self.distinct = len(keys)
        of_train, of_dev = map(np.flatnonzero, on_side)  # in order of digest, which is random
        of_dev = of_dev[: max(SAMPLE // 2, SAMPLE - len(of_train))]
        chosen = np.union1d(of_train[: SAMPLE - len(of_dev)], of_dev)
        self.keys = keys[chosen]
        self._texts = [_texts(*_located(data, int(at))) for at in first[chosen]]
        texts = [_key(*each) for each in self._texts]
        self.near, self.compared = near_duplicates(texts, on_side[:, chosen])

    def finding(self, of_train: tuple[int, int], of_dev: tuple[int, int]) -> Affected:
        """The texts of train and those of dev with a near duplicate, each on the given sides."""
        train, dev = self.near[of_train], self.near[of_dev]
        pairs = dict.fromkeys(frozenset(pair) for pair in (*train.items(), *dev.items()))
        lines = [
            " ≈ ".join(shown(*self._texts[at]) for at in sorted(pair)) for pair in [*pairs][:SHOWN]
        ]
        return Affected(train=len(train), dev=len(dev), shown=tuple(lines))


def _conflicts(data: TaskData, keys: Keys) -> Affected:
    codes = _codes(joined(data.train.labels, data.dev.labels))
    if data.train.by_word:  # signs are words with tags of their own
        number: dict[str, int] = {}
        texts = (*data.train.text_a, *data.dev.text_a)
        keys = np.array([number.setdefault(t, len(number)) for t in texts], dtype=np.uint64)
    order = np.lexsort((codes, keys))
    sorted_keys, sorted_codes = keys[order], codes[order]
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=~sorted_keys[:1]))
    ends = np.append(starts[1:], len(keys))
    groups = np.flatnonzero(sorted_codes[starts] != sorted_codes[ends - 1])
    sizes = (ends - starts)[groups]
    members = [order[starts[at] : ends[at]] for at in groups[np.argsort(-sizes, kind="stable")]]
    in_train = sum(int((group < len(data.train)).sum()) for group in members)
    lines = []
    for group in members[:SHOWN]:
        examples = [_located(data, int(at)) for at in group]
        labels = list(dict.fromkeys(_label(data, *example) for example in examples))
        more = ", …" if len(labels) > _MOST_LABELS else ""
        lines.append(f"{', '.join(labels[:_MOST_LABELS])}{more}: {shown(*_texts(*examples[0]))}")
    return Affected(train=in_train, dev=int(sizes.sum()) - in_train, shown=tuple(lines))


def _codes(labels: NDArray[Any]) -> NDArray[Any]:
    """A number for each label, equal for equal labels; of several labels, a digest of them; [N]."""
    if labels.ndim == 1:
        return labels
    factors = np.random.default_rng(0).integers(0, 2**63, labels.shape[1], dtype=np.uint64)
    return np.asarray(labels.astype(np.uint64) @ factors)


def _label(data: TaskData, examples: Examples, index: int) -> str:
    label = problem_of(examples.labels).written(examples.labels[index])
    if isinstance(label, list):
        names = [data.task.classes[at] for at in label]
        return shown((" " if examples.by_word else "+").join(names) or "none")
    return shown(data.task.classes[int(label)]) if data.task.classes else f"{label:g}"


def _has(pattern: re.Pattern[str], text: str) -> bool:
    plain = text.isascii() and text.isprintable()
    return not plain and pattern.search(text) is not None


def _where(data: TaskData, is_bad: Callable[[str], bool]) -> Affected:
    numbers, lines = [], []
    for examples in (data.train, data.dev):
        rows = enumerate(zip(*examples.columns, strict=True))
        bad = [at for at, texts in rows if any(map(is_bad, texts))]
        numbers.append(len(bad))
        lines += [shown(*_texts(examples, at)) for at in bad[:SHOWN]]
    return Affected(train=numbers[0], dev=numbers[1], shown=tuple(lines[:SHOWN]))


def _counted(count: Callable[[str], int], examples: Examples) -> NDArray[np.int64]:
    rows = zip(*examples.columns, strict=True)
    return np.fromiter((sum(map(count, texts)) for texts in rows), np.int64, len(examples))


def _lengths(unit: Any, train: NDArray[np.int64], dev: NDArray[np.int64]) -> Lengths:
    end = int(np.percentile(train, 99.5, method="higher")) + 1
    step = max(1, -(-end // _BINS))
    bins = np.bincount(np.minimum(train // step, (end - 1) // step))
    return Lengths(
        unit=unit,
        train=_percentiles(train),
        dev=_percentiles(dev),
        step=step,
        counts=tuple(bins.tolist()),
    )


def _percentiles(lengths: NDArray[np.int64]) -> dict[str, int]:
    if not len(lengths):
        return {}
    values = np.percentile(lengths, _PERCENTILES, method="higher")
    return {str(name): int(value) for name, value in zip(_PERCENTILES, values, strict=True)}


def near_duplicates(texts: Sequence[str], on_side: NDArray[np.bool_]) -> tuple[Pairs, int]:
    """The near duplicates among distinct normalised texts in random order, and the number of texts,
    from the first, among which they were searched; `on_side` [2, N] says whether each is one of
    train, and one of dev."""
    from datasketch import MinHash, MinHashLSH  # loads scipy

    index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    empty = MinHash(num_perm=_BANDS * _ROWS, hashfunc=int)
    sides = on_side.T.tolist()  # [N, 2]
    grams: list[NDArray[np.uint32]] = []
    near: Pairs = {sides: {} for sides in _SIDES}
    candidates = 0
    for number, text in enumerate(texts):
        grams.append(ngrams(text))
        signature = empty.copy()
        signature.update_batch(grams[number].tolist())
        for other in sorted(index.query(signature)):
            candidates += 1
            wanted = [
                (near[here, there], one, two)
                for here, there in _SIDES
                for one, two in ((number, other), (other, number))
                if sides[one][here] and sides[two][there] and one not in near[here, there]
            ]
            if wanted and _is_near(grams[number], grams[other]):
                for pairs, one, two in wanted:
                    pairs[one] = two
        if candidates > _MOST_CANDIDATES:
            return near, number + 1
        index.insert(number, signature)
    return near, len(texts)


def ngrams(text: str) -> NDArray[np.uint32]:
    """Hashes of a text's distinct character n-grams, sorted; a shorter text is one n-gram."""
    padded = text[:LONGEST].ljust(N)
    codes = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    mixed = np.zeros(len(codes) - N + 1, dtype=np.uint64)
    for place in range(N):
        mixed = (mixed + codes[place : place + len(mixed)]) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def _is_near(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> bool:
    if min(len(a), len(b)) < THRESHOLD * max(len(a), len(b)):
        return False
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common >= THRESHOLD * (len(a) + len(b) - common)
