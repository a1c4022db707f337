"""What the cells of a run are made from: a grid, examples and models; and what they can show."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import chain
from math import ceil, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

from bench.common.errors import InputError
from bench.examples.own import find_source, merged
from bench.examples.tokens import cut_notes, find_length, tokenizer_of
from bench.launch import checks
from bench.machine.conditions import Target
from bench.machine.devices import Device
from bench.plan import gridfile
from bench.plan.adapter_configs import read_adapter_configs
from bench.plan.architectures import attention_of
from bench.plan.cell import GRID, MINBERT, ON, TRANSFORMERS, Cell
from bench.plan.gridfile import AUTO, FEW, OF_FEW, USUAL, Grid
from bench.plan.metrics import Metric, check_metric, metric_of, problem_of
from bench.plan.models import Model, check_models, engine_version, find_models
from bench.plan.planning import Resolved, expand, why_transformers
from bench.report.text import sentences
from bench.stats.best import FEWEST_SEEDS, LEVEL
from bench.stats.intervals import POWER_Z
from minbert.assets.embedded import fetch
from minbert.data import tasks
from minbert.data.tasks import Data, Folds, TaskData, for_race, for_search, load_data

_FEW_DEV: Final = 300
_FOLDS: Final = "--folds 5 scores all of them, and trains each setting 5 times as often"
OF_EXAMPLES: Final = 0.016
"""The variance over examples of the difference of two settings' outcomes, means over seeds."""
OF_SEEDS: Final = 0.062
"""The variance between seeds of the difference of two scores, times the number of examples; both
variances are typical ones, as docs/deciding.md says."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    grid: Grid
    models: Mapping[str, Model]  # by name
    data: Data  # the examples of cells without a fold
    folds: Folds | None = None  # those of the others
    data_folder: Path | None  # of the task's files; None for an embedded task
    source: str = ""  # the names of these files
    given: Mapping[str, str] = field(default_factory=dict)  # how they were described
    adapter_configs: Mapping[str, str] = field(default_factory=dict)  # JSON by the name in cells
    adapters: Mapping[str, str] = field(default_factory=dict)  # these names, by path
    engine: str = MINBERT  # what engine `auto` stands for in all cells
    why_engine: str = ""  # the reason if that is not minbert
    engine_version: str = ""  # of the libraries of engine transformers
    notes: tuple[str, ...] = ()  # on the examples

    @property
    def whole(self) -> Data:
        return self.data if self.folds is None else self.folds.whole

    @cached_property
    def searched(self) -> TaskData:
        if self.folds is None:
            return for_search(self.data)
        settings = self.grid.settings
        task, train, dev = self.data.task.name, settings.max_train, settings.max_dev
        return for_search(load_data(task, self.data_folder, max_train=train, max_dev=dev))

    @cached_property
    def _fold(self) -> Callable[[int | None], Data]:
        """The examples of a fold, or of a round of a race, kept until those of another are needed:
        the cells of a fold run one after the other."""
        fold = partial(for_race, self.data) if self.folds is None else self.folds.fold
        return lru_cache(maxsize=1)(fold)

    @cached_property
    def curve(self) -> dict[int, TaskData]:
        """A tenth and a third of the training examples, by their `max_train`."""
        parts = [checks.curve_part(self.grid.settings, self.data, divisor) for divisor in (10, 3)]
        return {len(part.train): part for part in parts}

    def data_of(self, cell: Cell) -> Data:
        if cell.max_train is not None and cell.max_train != self.grid.settings.max_train:
            return self.curve[cell.max_train]
        if cell.race == ON:
            return self._fold(cell.fold)
        if cell.is_candidate:
            return self.searched
        return self.data if self.folds is None else self._fold(cell.fold)

    def paths(self) -> list[Path]:
        models = (model.checkpoint for model in self.models.values())
        return [*filter(None, (self.data_folder, *models))]

    def train_examples(self) -> int:
        return sum(size.train for size in self.data.sizes.values())

    @cached_property
    def _engines(self) -> set[str]:
        return {self.engine if v.engine == AUTO else v.engine for v in self.grid.variants}

    @cached_property
    def _lengths(self) -> dict[str, tuple[int, str]]:
        """What `max_length` auto stands for in each model, with a note, if the grid has it."""
        if not self.grid.has_auto_length:
            return {}
        loads_all = not any(model.why_not_minbert for model in self.models.values())
        engine = MINBERT if MINBERT in self._engines and loads_all else TRANSFORMERS
        return {
            name: find_length(
                self.whole,
                tokenizer_of(engine, model.tokenizer),
                model.config.max_position_embeddings,
            )
            for name, model in self.models.items()
        }

    def cells(self, target: Target) -> list[Cell]:
        has_transformers, task = TRANSFORMERS in self._engines, self.data.task
        resolved = (
            Resolved(
                regression=self.data.regression,
                one_class=task.kind == "classification" and not task.plugin,
                parts=tuple(self.data.sizes) if self.data.task.parts else (),
                model=model.name,
                model_digest=model.digest,
                # tags are read at tokens: the head is always the architecture's own
                pooling="pooler" if self.data.by_word else model.pooling,
                data_digest=self.data.digest[:16],
                amp_on=target.amp_on,
                learning_rate_source=GRID,
                auto_length=self._lengths.get(model.name, (None, ""))[0],
                auto=OF_FEW if self.train_examples() < FEW else USUAL,
                no_compiling=target.no_compiling,
                engine=self.engine,
                engine_version=self.engine_version,
                attention=attention_of(model.config) if has_transformers else "",
                adapters=self.adapters,
            )
            for model in self.models.values()
        )
        return expand(self.grid, *resolved)

    def check(self, cells: Sequence[Cell], devices: Iterable[Device], *, searches: bool) -> None:
        """Refuse cells that can't run, and data that their settings don't fit."""
        grid, data = self.grid, self.data
        for cell in cells:
            if cell.engine == MINBERT and (why := self.models[cell.model].why_not_minbert):
                raise InputError(
                    f"grid {grid.name} has cells of engine {MINBERT}: {why}; leave them out with "
                    f"--select engine={TRANSFORMERS}"
                )
        for device in devices:
            checks.check_amp(cells, grid, device)
        checks.check_cells(cells)
        check_models(cells, self.models, pairs=data.pairs_in_one)
        checks.check_held_out(grid.settings.share_held_out, data)
        checks.check_loss(grid.variants, cells, data)
        checks.check_class_settings(grid.variants, data)
        checks.check_words(cells, data)
        if searches:
            checks.check_search(grid, self.train_examples(), self.searched)
            checks.check_held_out(grid.settings.share_held_out, self.searched)

    def check_race(self, cells: Sequence[Cell], amps: Collection[str]) -> None:
        """Refuse what can't race on devices on which `amp` on is one of some types."""
        has_on = any("on" in axes.amp for axes in self.grid.cells)
        checks.check_race(self.grid.settings, cells, amps if has_on else ())
        for_race(self.data, 0)

    def check_engines(self, cells: Sequence[Cell]) -> None:
        for model in self.models.values():
            own = [cell for cell in cells if cell.model == model.name]
            checks.check_engine(
                own, self.grid.variants, model, self.data_folder, self.adapter_configs
            )

    def every_note(
        self, cells: Sequence[Cell], device: Device, metric: str | None, *, some_run: bool
    ) -> Iterator[str]:
        """Notes on the cells and, if some run, on the scores by the metric that decides (None: the
        task's own), unless a race decides, and on texts that are cut, for which examples are
        tokenised."""
        grid, data, several = self.grid, self.data, len(self.models) > 1
        if self.train_examples() < FEW and (names := grid.auto_names):
            values = {name: max(getattr(cell, name) for cell in cells) for name in names}
            given = ", ".join(f"{name} auto: {value:g}" for name, value in values.items() if value)
            yield f"{given}, with fewer than {FEW:,} training examples"
        if self.why_engine:
            every = " of all models, so that costs are comparable" if several else ""
            yield f"engine {TRANSFORMERS}{every}: {self.why_engine}"
        layers = min(model.config.num_hidden_layers for model in self.models.values())
        yield from chain(
            self.notes,
            checks.label_notes(data),
            checks.idle_notes(grid.variants, data),
            checks.unfreezing_notes(cells, layers),
            checks.compile_notes(cells),
            checks.early_stopping_notes(grid.settings),
            (f"{name}: {note}" if several else note for name, (_, note) in self._lengths.items()),
            device.notes,
            checks.amp_notes(cells, device),
        )
        if not some_run:
            return
        pretrained = any(model.checkpoint for model in self.models.values())
        yield from checks.few_steps_notes(cells, self.train_examples()) if pretrained else ()
        if pretrained and not grid.settings.race:
            dev = sum(size.dev for size in data.sizes.values())
            scored = dev if self.folds is None else len(self.folds.examples)
            yield from power_note(cells, scored, metric_of(metric or data.task.metric))
            if not (self.folds or grid.settings.max_dev or data.task.parts) and dev < _FEW_DEV:
                total = self.train_examples() + dev
                yield f"dev has only {dev} of {total:,} examples; {_FOLDS}"
        first = {(cell.model, cell.max_length): cell for cell in reversed(cells)}
        for _, cell in sorted(first.items()):
            examples = data if self.folds is None else self.folds.fold(cell.fold)
            tokenizer = self.models[cell.model].tokenizer
            whose = f"{cell.model}: " if several else ""
            yield from cut_notes(examples, cell, tokenizer, self.data_folder, whose)


def read_inputs(
    grid: Grid, data: dict[str, Any], metric: str | None, *, searches: bool = False
) -> Inputs:
    """The inputs of a grid, whose rates may be searched, on the data that fields of `DataSpec`
    describe.

    InputError for data, models or adapters that can't be read or used, for a model that no engine
    of the grid can load, and for a metric that is not of the task's problem."""
    in_folds = grid.settings.folds is not None
    source = find_source(grid.settings.task, merged(grid.data, data), folds=in_folds)
    grid = override(grid, {"task": source.task})
    if source.folder is None and not tasks.find_task(source.task).files:
        fetch("vader")
    caps = {"max_train": grid.settings.max_train, "max_dev": grid.settings.max_dev}
    folds = None
    if grid.settings.folds is None:
        examples = load_data(source.task, source.folder, **caps)
    else:
        whole = load_data(source.task, source.folder)
        whole = tasks.without_searched(whole) if searches else whole
        folds = Folds(whole, grid.settings.folds, **caps)
        examples = folds.fold(0)
    if metric is not None:
        check_metric(metric, problem_of(examples.task.metric))
    grid = checks.without_idle_caps(
        grid, examples.sizes.values() if folds is None else [folds.most]
    )
    settings = grid.settings
    models = find_models(settings.models, settings.init, settings.pooling)
    adapters, adapter_configs = read_adapter_configs(grid)
    engines = {variant.engine for variant in grid.variants}
    why = next((model.why_not_minbert for model in models.values() if model.why_not_minbert), "")
    if why and engines == {MINBERT}:
        raise InputError(f"--engine {MINBERT}: {why}; take --engine {TRANSFORMERS}")
    why = (why or why_transformers(grid)) if AUTO in engines else ""
    has_transformers = TRANSFORMERS in engines or why
    return Inputs(
        grid=grid,
        models=models,
        data=examples,
        folds=folds,
        data_folder=source.folder,
        source=source.files,
        given=source.given,
        adapter_configs=adapter_configs,
        adapters=adapters,
        engine=TRANSFORMERS if why else MINBERT,
        why_engine=why,
        engine_version=engine_version(why) if has_transformers else "",
        notes=(*source.notes, *examples.notes, *examples.problems),
    )


def override(grid: Grid, values: dict[str, Any]) -> Grid:
    given = {name: value for name, value in values.items() if value is not None}
    return gridfile.with_settings(grid, given) if given else grid


def shown_size(examples: int, seeds: int, settings: int) -> float:
    """The difference of accuracies that is expected to be shown four times out of five."""
    return _quantiles(settings) * sqrt((OF_EXAMPLES + OF_SEEDS / seeds) / examples)


def needed_seeds(size: float, examples: int, settings: int) -> int | None:
    """The seeds that are expected to show a difference; None where no number of seeds does."""
    left = (size / _quantiles(settings)) ** 2 * examples - OF_EXAMPLES
    return ceil(OF_SEEDS / left) if left > 0 else None


def _quantiles(settings: int) -> float:
    """Standard errors of a difference that is shown four times out of five (Bonferroni)."""
    return NormalDist().inv_cdf(1 - LEVEL / max(settings - 1, 1)) + POWER_Z


def power_note(cells: Collection[Cell], examples: int, metric: Metric) -> list[str]:
    """A sentence on what the cells of a grid can show, by a metric whose variance is known, on a
    number of dev examples or, with folds, of all."""
    seeds = {cell.seed for cell in cells}
    settings = round(len(cells) / len(seeds) / max(len({cell.fold for cell in cells}), 1))
    if metric.label != "accuracy" or settings < 2 or not examples:
        return []
    size = shown_size(examples, max(len(seeds), FEWEST_SEEDS), settings)
    return sentences(
        "power", seeds=len(seeds), fewest=FEWEST_SEEDS, examples=examples, metric=metric,
        size=float(f"{size:.2g}"), beyond=size > metric.margin,
        needed=needed_seeds(metric.margin, examples, settings),
    )  # fmt: skip
