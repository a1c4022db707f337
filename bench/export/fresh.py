"""The answers of an exported model, from a fresh process with plain libraries."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.common.files import below
from bench.export.formats import ANSWERS, SNIPPET
from bench.export.trained import Base

_HARNESS: Final = Path(__file__).with_name("harness.py")
_HIDDEN: Final = ("adapters", "bench", "minbert")  # packages that the process can't import
_CACHES: Final = ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE")
"""Environment variables that would lead past HF_HUB_CACHE."""
BATCH_SIZE: Final = 32


@dataclass(frozen=True)
class Answer:
    """The answers of an exported model to N texts or pairs."""

    logits: NDArray[np.float32]  # [N, C], of a regression in the unit of the labels
    labels: list[Any]  # for each text, as the snippet names them: a class, classes, or a number
    one_ms: list[float]  # latency of one text, tokenising included, when timed
    batch_ms: list[float]  # and of a batch of 32
    libraries: dict[str, str]  # versions of those that made them
    entities: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # as of the harness


def run_fresh(
    folder: Path,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    *,
    snippet: Path | None = None,
    base: Base | None = None,
    weights: str | None = None,
    timed: bool = False,
    piped: int = 0,
    threads: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Answer:
    """Run the snippet of an exported model, or another one, on texts or pairs, in a process that
    can't import this project. InputError with the last line that it wrote, if it fails.

    The base of adapters comes from its folder here, under its name on the hub if the hub has it;
    without one the snippet gets it by itself. `weights` is the file of the weights, if the format
    has several. `timed`, latencies are measured, whose batches have a size of their own. In the
    first `piped` texts, entities are compared with those of transformers' pipeline. Libraries use
    as many threads as they choose, unless a number is given.
    """
    options = {} if weights is None else {"weights": weights}
    environment = {key: value for key, value in os.environ.items() if key not in _CACHES}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    with TemporaryDirectory(prefix=".fresh-", dir=folder.parent) as place:
        request, answer = Path(place, "request.json"), Path(place, "answer.json")
        if base is not None and base.on_hub:
            environment["HF_HUB_CACHE"] = str(hub_cache(base, Path(place, "hub")))
        elif base is not None:
            options["base"] = str(base.folder.resolve())
        values = {
            "folder": str(folder.resolve()),
            "snippet": str((snippet or folder / SNIPPET).resolve()),
            "answers": str(ANSWERS if snippet else (folder / ANSWERS.name).resolve()),
            "texts": texts,
            "options": options,
            "timed": timed,
            "piped": piped,
            "threads": threads,
            "batch_size": batch_size,
            "hidden": _HIDDEN,
        }
        request.write_text(json.dumps(values), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-E", "-P", "-B", _HARNESS, request, answer],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            raise InputError(f"{folder}: fails in a fresh process: {lines[-1]}")
        logits: NDArray[np.float32] = np.load(f"{answer}.npy")
        return Answer(logits, **json.loads(answer.read_text(encoding="utf-8")))


def hub_cache(base: Base, folder: Path) -> Path:
    """A cache folder of the hub's library that holds the base alone, as a link to its files."""
    commit = base.revision or "0" * 40
    model = below(folder, f"models--{base.name.replace('/', '--')}")
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    (model / "snapshots").mkdir()
    below(model / "snapshots", commit).symlink_to(base.folder.resolve(), target_is_directory=True)
    return folder
