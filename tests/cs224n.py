"""A small folder in the format of the CS 224N default final project, of made-up sentences."""

from collections.abc import Sequence
from pathlib import Path

WORDS = ("a", "good", "film", "about", "nothing", "that", "nobody", "will", "see", "twice")
SIDES = ("train", "dev")
PREFIXES = {"sst": "ids-sst", "quora": "quora", "sts": "sts"}
HEADERS = {
    "sst": ("sentence", "sentiment"),
    "quora": ("sentence1", "sentence2", "is_duplicate"),
    "sts": ("sentence1", "sentence2", "similarity"),
}


def write_folder(folder: Path, parts: Sequence[str] = tuple(PREFIXES), count: int = 24) -> Path:
    """The files of some parts, with so many examples to train on and half as many for dev."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for side, rows in zip(SIDES, (count, count // 2), strict=True):
            lines = ["\t".join(["", "id", *HEADERS[part]])]
            lines += ["\t".join(_row(part, side, number)) for number in range(rows)]
            path = folder / f"{PREFIXES[part]}-{side}.csv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def relabel(path: Path, label: str, line: int | None = None) -> None:
    """Give an example of a file another label, the one on that line, from 1; or all of them."""
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    rows = [
        "\t".join([row.rpartition("\t")[0], label]) if line in (None, place) else row
        for place, row in enumerate(rows, start=2)
    ]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def _row(part: str, side: str, number: int) -> list[str]:
    words = [WORDS[(number * 3 + place) % len(WORDS)] for place in range(2 + number % 7)]
    text = f"{side} {number} {' '.join(words)}"
    if part == "sst":
        return [str(number), f"id{number}", text, str(number % 5)]
    other = text if number % 2 else f"{words[-1]} {number}"
    label = float(number % 2) if part == "quora" else (number % 11) / 2
    return [str(number), f"id{number}", text, other, str(label)]
