"""Check that engine transformers can build the models of a plan: `python -m bench.engines.check`.

The check is a process of its own, so that its caller does not import torch. It reads the jobs from
stdin, as a list of their JSON.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.common.messages import echo, last_error
from bench.plan.cell import TRANSFORMERS, Cell, digest
from bench.plan.job import Job
from bench.plan.models import Model
from minbert.assets.cache import cache_folder
from minbert.files import is_file

PATIENCE_S: Final = 600.0
"""A check takes seconds, or minutes from a folder on a slow network."""
_BUILT_FROM: Final = (
    "mode", "layers", "amp", "model", "init", "attn_implementation", "pooling", "head", "task",
    "gradient_checkpointing", "use_rslora", "init_lora_weights", "lora_dropout", "adapter",
    "layer_decay", "unfreeze",
)  # fmt: skip
"""The settings that decide what is built, besides the rank, of which the highest is checked."""
_CODE: Final = (
    "adapters",
    "bench/engines",
    "bench/examples/tokenizers.py",
    "bench/plan",
    "minbert",
)
_ROOT: Final = Path(__file__).parents[2]


def check_models(
    cells: Iterable[Cell], model: Model, data: Path | None, adapter_configs: Mapping[str, str]
) -> None:
    """Build what the cells of engine transformers train, without values, read the tokenizer, and
    run each kind of model on a few tokens, in another process. What was checked is not checked
    again.

    Args:
        data: the folder of the task's files.
        adapter_configs: JSON by the name in cells.

    Raises:
        InputError: what the engine raises, or if it takes longer than `PATIENCE_S`.
    """
    built: dict[tuple[object, ...], Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.rank or 0):
        if cell.engine == TRANSFORMERS:
            built[tuple(getattr(cell, name) for name in _BUILT_FROM)] = cell
    if not built:
        return
    known = _mark([model.digest, [[*key, cell.rank] for key, cell in built.items()]])
    if is_file(known):
        return
    jobs = [
        model.job(
            replace(cell, seed=0),
            data,
            adapter_config=adapter_configs.get(cell.adapter or ""),
        )
        for cell in built.values()
    ]
    settings = f"{len(jobs)} setting{'s' if len(jobs) > 1 else ''}"
    echo(f"checking {settings} of {model.name} in engine {TRANSFORMERS}", err=True)
    _run(jobs, model.name)
    with suppress(OSError):
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def _mark(settings: object) -> Path:
    """The file in the user's cache that exists once the models of some settings could be built."""
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    key = hashlib.sha256(digest([settings, versions], 64).encode())
    for name in _CODE:
        path = _ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            key.update(file.read_bytes())
    return cache_folder() / "checked" / key.hexdigest()[:32]


def _run(jobs: list[Job], name: str) -> None:
    try:
        result = subprocess.run(
            [sys.executable, "-m", "bench.engines.check"],
            input=json.dumps([job.to_json() for job in jobs]),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: could not be checked in {PATIENCE_S:g} s") from None
    if result.returncode == 0:
        return
    lines = result.stderr.strip().splitlines()
    if result.returncode == 2 and lines and lines[-1].startswith("error: "):
        raise InputError(lines[-1].removeprefix("error: "))
    why = last_error(result.stderr) or f"signal {-result.returncode}"
    raise InputError(f"{name}: engine {TRANSFORMERS} can't build it ({why})")


def _computes(job: Job) -> tuple[object, ...]:
    """What decides the code that a model without adapters runs."""
    return job.checkpoint, job.cell.attn_implementation, job.cell.pooling, job.cell.head


def main() -> int:
    """Check the jobs on stdin, and return the exit code."""
    from bench.common.command import BAD_INPUT
    from bench.engines import transformers
    from bench.examples.tokenizers import fast_tokenizer

    try:
        jobs = [Job.from_json(text) for text in json.load(sys.stdin)]
        for job in jobs:
            transformers.skeleton(job)
        tokenizer = fast_tokenizer(Path(jobs[0].tokenizer))
        transformers.check_vocabulary(jobs[0], tokenizer.highest_id)
        for own in grouped(jobs, _computes).values():
            transformers.check_weights(own[0], sorted({job.cell.amp for job in own}))
    except BAD_INPUT as error:
        echo(f"error: {error}", err=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
