"""Checks that models can be loaded, by a process of its own: `python -m bench.engines.check`.

So its caller does not import torch, and a file made to keep its reader busy can be given up after a
time. What could be loaded once is not loaded again.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from adapters.methods import LOW_RANK
from adapters.names import LAYER_SETS
from bench.common.child import ChildError, LateError, ask, serve
from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.common.messages import count, echo
from bench.machine.version import digest_of_code
from bench.plan.cell import MINBERT, ON, TRANSFORMERS, Cell, digest
from bench.plan.job import Job
from bench.plan.models import Model
from minbert.assets.cache import cache_folder
from minbert.files import is_file

PATIENCE_S: Final = 300.0
"""A check of a checkpoint takes seconds, or minutes from a folder on a slow network; one of engine
transformers may take twice as long."""
_BUILT_FROM: Final = (
    "mode", "layers", "amp", "model", "init", "attn_implementation", "pooling", "head", "task",
    "gradient_checkpointing", "use_rslora", "lora_fa", "init_lora_weights", "lora_dropout",
    "adapter", "layer_decay", "unfreeze", "own_kernels",
)  # fmt: skip
"""The settings that decide what is built, besides the rank, of which the highest is checked."""
_COMPUTES: Final = attrgetter("checkpoint", "cell.attn_implementation", "cell.pooling", "cell.head")
"""What decides the code that a model without adapters runs."""
_ADAPTS: Final = attrgetter("cell.mode", "cell.layers", "cell.use_rslora", "cell.lora_fa")
_CODE: Final = (
    "adapters", "bench/engines", "bench/examples/tokens.py", "bench/plan", "minbert",
)  # fmt: skip


def check_checkpoint(folder: Path, digest: str) -> None:
    """Read a checkpoint's configuration, vocabulary and weights as engine minbert does; `digest` is
    of its files, as `model_digest`. InputError if loading it raises one, or takes longer than
    `PATIENCE_S`."""
    request = {"checkpoint": str(folder)}
    load = partial(_ask, request, f"{folder}: ", "loaded", "can't be loaded", 1)
    _once(digest, ("torch",), ("minbert",), load)


def check_models(
    cells: Iterable[Cell], model: Model, data: Path | None, adapter_configs: Mapping[str, str]
) -> None:
    """Build what the cells of engine transformers train on data in a folder, without values, read
    the tokenizer, and run each kind of model on a few tokens; then print what layer sets stand for,
    if a cell has one. `adapter_configs` are JSON by the name in cells. InputError of the engine, or
    after twice `PATIENCE_S`."""
    built: dict[tuple[object, ...], Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell.rank or 0):
        if cell.engine == TRANSFORMERS:
            built[tuple(getattr(cell, name) for name in _BUILT_FROM)] = cell
    if not built:
        return

    def build() -> list[str]:
        config_of = adapter_configs.get
        jobs = [
            model.job(replace(cell, seed=0), data, adapter_config=config_of(cell.adapter or ""))
            for cell in built.values()
        ]
        what = count(len(jobs), "setting")
        echo(f"checking {what} of {model.name} in engine {TRANSFORMERS}", err=True)
        request = {"jobs": [job.to_json() for job in jobs]}
        failed = f"engine {TRANSFORMERS} can't build it"
        return _ask(request, f"{model.name}: ", "checked", failed, 2)

    settings = [model.digest, [[*key, cell.rank] for key, cell in built.items()]]
    [layers] = _once(settings, ("torch", "transformers", "peft"), _CODE, build)
    if any(cell.layers in LAYER_SETS for cell in built.values()):
        echo(f"layers of {model.name}: {layers}", err=True)


def _once(
    settings: object, libraries: Sequence[str], code: Sequence[str], check: Callable[[], list[str]]
) -> list[str]:
    """The answers of a check: those it gave before with these settings, these versions of libraries
    and this code, which are kept in the user's cache, or new ones."""
    versions = {name: version(name) for name in libraries}
    key = digest([settings, versions, digest_of_code(*code)], 32)
    path = cache_folder() / "checked" / key
    if is_file(path) and (known := path.read_text(encoding="utf-8").splitlines()):
        return known
    answers = check()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(answers), encoding="utf-8")
    return answers


def _ask(request: object, whose: str, done: str, failed: str, times: int) -> list[str]:
    patience_s = times * PATIENCE_S
    try:
        return list(ask("bench.engines.check", request, patience_s=patience_s))
    except LateError:
        raise InputError(f"{whose}could not be {done} in {patience_s:g} s") from None
    except ChildError as error:
        raise InputError(f"{whose}{failed} ({error})") from None


def answers_to(request: dict[str, Any]) -> Iterator[str]:
    if "checkpoint" in request:
        _load(Path(request["checkpoint"]))
        yield "loaded"
    else:
        yield _build([Job.from_json(text) for text in request["jobs"]])


def _load(folder: Path) -> None:
    import torch

    from bench.examples.tokens import tokenizer_of
    from minbert.model.checkpoint import load_encoder
    from minbert.model.config import BertConfig
    from minbert.model.encoder import BertEncoder

    config = BertConfig.from_folder(folder)
    _check_ids(folder, tokenizer_of(MINBERT, folder).highest_id, config.vocab_size)
    encoder = BertEncoder(config, pooler=config.family.head is None)
    load_encoder(encoder, folder)
    for name, parameter in encoder.named_parameters():
        if not parameter.is_meta and not torch.isfinite(parameter).all():
            raise InputError(f"{folder}: {name} holds NaN or infinite numbers; download it again")


def _build(jobs: list[Job]) -> str:
    """Build and check the models of the jobs, which are of one encoder; its layers."""
    from bench.engines import transformers
    from bench.examples.tokens import fast_tokenizer

    models = [transformers.skeleton(job) for job in jobs]
    highest = fast_tokenizer(Path(jobs[0].tokenizer)).highest_id
    library: Any = models[0].model_of_library
    _check_ids(jobs[0].cell.model, highest, library.config.vocab_size)
    for own in grouped(jobs, _COMPUTES).values():
        transformers.check_weights(own[0], sorted({job.cell.amp for job in own}))
    adapted = [job for job in jobs if job.cell.own_kernels == ON and job.cell.mode in LOW_RANK]
    for own in grouped(adapted, _ADAPTS).values():
        transformers.check_own_kernels(own[-1])  # of the highest rank
    return str(models[0].blocks)


def _check_ids(model: object, highest: int, size: int) -> None:
    if highest >= size:
        raise InputError(
            f"{model}: its tokenizer has token ids up to {highest}, and its vocab_size is {size}: "
            "they are of different models"
        )


if __name__ == "__main__":
    sys.exit(serve(answers_to))
