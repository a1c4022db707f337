"""One run of a grid: its cells in order, then the report, and how to go on if it was stopped."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Final

from bench.analysis.costs import NEEDS, Limit
from bench.analysis.groups import groups
from bench.analysis.racing import Raced, replay
from bench.analysis.recommendation import Recommendation, recommended_from
from bench.common.errors import DeviceError, DiskFullError, InputError, StoppedError, writing
from bench.common.messages import command_line, echo
from bench.common.progress import note_to_stderr
from bench.examples.tokens import tokenizer_of
from bench.grid.cells import Cells, PlanDispatcher
from bench.grid.plans import round_name
from bench.launch.display import Display
from bench.launch.locks import Locks, device_locks
from bench.launch.signals import Signals
from bench.plan.budget import Budget, minutes, was_left_out
from bench.plan.cell import MINBERT, Cell
from bench.plan.planning import RERUN, Planned, count_cells, scores_elsewhere, scores_sentence
from bench.plan.rows import BUSY, Row
from bench.references.client import find_facts, find_references, tokens_of
from bench.report.text import sentences
from bench.results.facts import DataFacts, facts_of, read_facts, update_facts
from bench.results.rescoring import Results, read_results
from bench.results.store import plan_file, write_plan
from bench.stats.best import FEWEST_SEEDS
from minbert.data.tasks import TaskData

INTERRUPTED: Final = 130
LEFT_OUT: Final = "left out"
"""The status in counts of cells that were skipped because of a budget."""
_GO_ON: Final = ("not run", "interrupted", BUSY, LEFT_OUT)
"""Statuses of cells that run if the same command is given again."""


@dataclass(frozen=True, kw_only=True)
class Session(Cells):
    reports: Path
    arguments: tuple[str, ...]
    metric: str | None = None  # decides in the report; None: the rows' own
    confirm: int | None = None  # the seeds that confirm a recommended setting; None: none is
    curve: Mapping[int, TaskData] = field(default_factory=dict)  # parts to train the answer on

    def run(self, rounds: Iterable[list[Planned]], as_json: bool = False) -> int:
        """Run plans one after the other, each made when the one before has ended, render the
        report, and return the exit code, which the cells of the last plan, the grid's own, decide.
        """
        planned: list[Planned] = []
        ended = "ok"
        with Signals() as signals:
            try:
                for number, planned in enumerate(rounds, start=1):
                    ended = self._run_round(planned, signals, number=number)
                    if ended != "ok" or signals.stops > 1 or self._lacks_tries(planned):
                        break
                while ended == "ok" and not signals.stops and (further := self.further(planned)):
                    ended = self._run_round(further, signals, planned)
                    planned = [*planned, *further]
                if signals.stops > 1:
                    echo("\n".join(how_to_go_on(self.arguments)), err=True)
                    return INTERRUPTED
            except InputError as error:  # of a plan that earlier results make impossible
                echo(f"stopped: {error}", err=True)
                ended = "stopped"
        return self._close(planned, ended, as_json)

    def _lacks_tries(self, planned: list[Planned]) -> bool:
        """Whether candidates of a search were left out, so that the best rates can't be found."""
        return any(item.cell.is_candidate and item.key in self.budget.left_out for item in planned)

    def further(self, planned: Sequence[Planned]) -> list[Planned]:
        """The plan of the trainings that the answer lacks: of its setting, to confirm it, and on
        parts of the examples. InputError if the setting has no cell among the planned."""
        planned = [self.moved.get(item.key, item) for item in planned]
        if not (self.confirm or self.curve) or self._lacks_tries(planned):
            return []
        _, _, answer = self._recommend(planned)
        setting = answer and answer.subject
        if not (answer and setting and (answer.decided or self.curve)):
            return []
        trained = {_place(row.cell) for row in setting.rows}
        own = [item.cell for item in planned if _place(item.cell) in trained]
        if not own:
            flag = "--confirm" if self.confirm else "--label-curve"
            standing = "recommended" if answer.decided else "the best by score"
            raise InputError(
                f"{flag}: {setting.label} is {standing}, and no cell of this command is of that "
                "setting; python -m bench.recommend prints the command"
            )
        seeds = range(self.confirm or 0) if answer.decided else ()
        cells = [replace(cell, seed=seed) for seed in seeds for cell in own]
        whole = {own[0].max_train: self.inputs.data} if self.curve else {}
        for n, data in chain(self.curve.items(), whole.items()):
            part = replace(own[0], race=None, fold=None, max_train=n, data_digest=data.digest[:16])
            cells += [replace(part, seed=seed) for seed in sorted(setting.scores)[:FEWEST_SEEDS]]
        known = {item.cell.cell_id for item in planned}
        missing = self.plan([*dict.fromkeys(cells)], repeats=1, rerun=None)
        return [item for item in missing if item.cell.cell_id not in known]

    def _recommend(
        self, planned: list[Planned]
    ) -> tuple[Results, list[Row], Recommendation | None]:
        results, plan = read_results([self.store.path], self.metric), self._plan(planned)
        return results, plan, recommended_from(results.rows, plan, results.values_of)

    def within(
        self, cells: Sequence[Cell], limits: Sequence[Limit], signals: Signals
    ) -> list[Cell]:
        """The cells whose forecast meets limits on memory or time, and those without a forecast.
        InputError for other limits, or if fewer than two are left."""
        if others := [limit.text for limit in limits if limit.name not in ("memory", "time")]:
            raise InputError(f"--where {others[0]}: a race is limited by memory and time alone")
        planned = [replace(item, action="run") for item in self.plan(cells)]
        forecasts = self.outlook(planned, signals).forecasts
        left = []
        for item in planned:
            one = None if forecasts is None else forecasts.predict(item.cell)
            costs = (
                {} if one is None else {"memory": one.predicted_peak_mib, "time": one.predicted_s}
            )
            if all(limit.shortfall(costs.get(limit.name, limit.value)) == 0 for limit in limits):
                left.append(item.cell)
        text = " ".join(limit.text for limit in limits)
        if len(left) < 2:
            raise InputError(f"--where {text}: {len(left)} of {len(cells)} settings is left")
        basis = "nothing is predicted" if forecasts is None else forecasts.basis
        note_to_stderr(
            f"--where {text}: {len(cells) - len(left)} of {len(cells)} settings are left out by "
            f"their forecast ({basis})"
        )
        return left

    def raced(self, planned: Sequence[Planned]) -> Raced | None:
        """The race of planned cells by the rows that there are; None without any."""
        results, plan = read_results([self.store.path], self.metric), self._plan(planned)
        race = next((group.race for group in groups(results.rows, plan, results.values_of)), None)
        return None if race is None else replay(race, NEEDS[0])

    def _run_round(
        self, planned: list[Planned], signals: Signals, before: Sequence[Planned] = (),
        number: int | None = None,
    ) -> str:  # fmt: skip
        """Run a plan after others; returns `ok`, `interrupted` or `stopped`."""
        try:
            outlook = self.outlook(planned, signals)
        except StoppedError:
            return "interrupted"
        done, (title, noun) = len(planned) - len(outlook.to_run), round_name(planned, number)
        with Display(len(planned), done, title=title, noun=noun) as display:
            try:
                self._write_plan([*before, *planned])
                if elsewhere := scores_elsewhere(planned):
                    display.note(scores_sentence(elsewhere))
                self._find_references(outlook.to_run, signals, display)
                dispatcher = PlanDispatcher(self, outlook, display)
                if self.executor.run(outlook.to_run, dispatcher, signals):
                    return "interrupted"
            except StoppedError:
                return "interrupted"
            except (DeviceError, DiskFullError, InputError, OSError) as error:
                display.note(f"stopped: {error}; finished cells are kept")
                return "stopped"
        return "ok"

    def _find_references(
        self, to_run: Sequence[Planned], signals: Signals, display: Display
    ) -> None:
        """Find what is in the data, and what scores can be compared with."""
        data = self.inputs.data
        if not isinstance(data, TaskData):
            return
        engine = next((item.cell.engine for item in to_run), MINBERT)
        facts = self._facts(data, engine, display)
        if not (self.predicts and self.executor.workers):
            return
        capped = self.inputs.grid.settings.max_train  # less: of a learning curve
        to_run = [item for item in to_run if item.cell.max_train == capped]
        planned = [self._job(item) for item in to_run if item.action == "run"]
        if not planned:
            return
        target = next(iter(self.executor.kinds.values()))
        display.stage("reference points")
        begun = monotonic()
        with (
            Locks(device_locks(), signals) as devices,
            devices.using(target.device_name, display.waiting),
        ):
            self.account.waited(monotonic() - begun)
            notes = find_references(
                self.store.path,
                data.digest[:16],
                facts,
                planned,
                gpu=target.gpu,
                timeout_s=self.timeout_s,
                on_progress=display.progress,
                signals=signals,
            )
            for note in notes:
                display.note(note)

    def _facts(self, data: TaskData, engine: str, display: Display) -> DataFacts:
        """The facts on the examples of all folds, kept, in tokens of the first model."""
        digest = data.digest[:16]
        known = read_facts(self.store.path).get(digest)
        source, given, folds = self.inputs.source, {**self.inputs.given}, self.inputs.folds
        whole = data if folds is None else folds.whole
        model = next(iter(self.inputs.models.values()))
        longest = model.config.max_position_embeddings
        try:
            tokens = tokens_of(model.tokenizer, longest)
            if known is not None and known.describes(data, given, tokens):
                return known
            display.stage("checks of the data")
            facts = find_facts(
                whole,
                source,
                tokenizer_of(engine, model.tokenizer),
                tokens,
                longest,
                lambda _number, name: display.progress({"phase": name}),
            ).without_texts()
        except InputError:  # of the vocabulary: each worker reports it
            return known or facts_of(whole, source)
        facts = facts.model_copy(update={"given": given})
        return update_facts(self.store.path, digest, facts.with_scores_of)

    def _plan(self, planned: Sequence[Planned]) -> list[Row]:
        """The rows of a plan. A cell with a result has the version of the code of that result; with
        `--fresh`, only results of the present version count."""
        return [
            replace(row, code_version=last.code_version)
            if (last := self.store.last(*row.key))
            else row
            for row in self.planned_rows(planned)
        ]

    def _write_plan(self, planned: list[Planned]) -> None:
        with writing(plan_file(self.store.path)):
            write_plan(self.store.path, self._plan(planned))

    def _close(self, planned: list[Planned], ended: str, as_json: bool) -> int:
        """Render the report, print the outcome and how to continue, and return the exit code."""
        # imported late, so that matplotlib does not load while cells run
        from bench.report import labels, recommendation
        from bench.report.render import render

        advice: recommendation.Advice | None = None
        curve: labels.LabelCurve | None = None
        last: dict[tuple[str, int], Row] = {}
        planned = [self.moved.get(item.key, item) for item in planned]
        try:
            if self.moved:
                self._write_plan(planned)
            results, plan, recommended = self._recommend(planned)
            for item in planned:
                row = self.store.last(*item.row_key)
                if row is not None and not item.elsewhere:
                    last[item.key] = row
            if recommended is not None:
                advice = recommendation.advice(
                    recommended, results.facts, results.exports, [str(self.store.path)]
                )
            curve = labels.label_curve(recommended, results.rows, results)
            report = str(render(results, self.reports, planned=plan))
        except (DiskFullError, InputError) as error:
            ended = "stopped" if ended == "ok" else ended
            report = f"not written: {error}"
        counts = statuses(planned, last)
        elsewhere = scores_elsewhere(planned)
        times = self.account.times()
        if as_json:
            outcome = {
                "cells": counts,
                "scores_from_other_machines": elsewhere,
                "report": report,
                "time": None if times is None else times.to_json(),
                "recommendation": advice and recommendation.as_json(advice),
                "label_curve": curve and curve.to_json(),
            }
            echo(json.dumps(outcome))
        else:
            lines = sentences(
                "outcome", cells=count_cells(planned), counts=counts, elsewhere=elsewhere,
                scores_sentence=scores_sentence, report=report, times=times,
            )  # fmt: skip
            echo("\n".join(lines))
            if advice is not None:
                echo("\n".join(recommendation.lines(advice)))
                if curve is not None:
                    echo("\n".join(curve.lines))
                if self.executor.flags:
                    echo(f"to run these on the cluster, add: {self.executor.flags}")
        fell_back = fallen_back(planned, last)
        again = to_run_again(counts, planned, sum(map(was_left_out, last.values())))
        if self.tracking is not None:
            echo(self.tracking.finish([*last.values()]), err=True)
        ends = how_to_go_on(self.arguments, again, fell_back=fell_back, budget=self.budget)
        echo("".join(f"{line}\n" for line in ends), err=True, nl=False)
        if ended == "interrupted":
            return INTERRUPTED
        confirmed = self.confirm is None or (advice is not None and advice.recommended.decided)
        is_ok = ended == "ok" and counts["ok"] == counts.total() and not fell_back and confirmed
        return 0 if is_ok else 1


def _place(cell: Cell) -> str:
    """What a cell shares with those of other seeds, and with the rounds of its race."""
    return replace(cell, seed=0, fold=None, race=None).cell_id


def how_to_go_on(
    arguments: Sequence[str],
    counts: Mapping[str, int] | None = None,
    *,
    fell_back: int = 0,
    budget: Budget | None = None,
) -> list[str]:
    """Lines with the commands that run what has not run, and what failed, by the arguments of the
    present command, counts of cells by status, `not run` and `LEFT_OUT` too (None if not counted),
    of those that have `fallen_back`, and the budget that cells were left out for."""
    failed = sorted((counts or {}).keys() - {"ok", *_GO_ON})
    rerun = (*_without_rerun(arguments), RERUN)
    return sentences(
        "go_on", budget=budget, minutes=minutes, fell_back=fell_back,
        goes_on=fell_back or counts is None or any(map(counts.get, _GO_ON)),
        again=command_line("grid", *arguments),
        reruns={status: command_line("grid", *rerun, status) for status in failed},
    )  # fmt: skip


def _without_rerun(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for argument in arguments:
        if kept and kept[-1] == RERUN:
            kept.pop()
        elif not argument.startswith(f"{RERUN}="):
            kept.append(argument)
    return kept


def to_run_again(
    counts: Mapping[str, int], planned: Sequence[Planned], left_out: int = 0
) -> Counter[str]:
    """Counts of statuses for `how_to_go_on`. Cells for which a search found no learning rate count
    by the statuses of its candidates, since these have to run again. `left_out` is the number of
    skipped cells that were left out because of a budget."""
    without_rates = [item for item in planned if item.tries]
    result = Counter(counts)
    result["skipped"] -= len(without_rates) + left_out
    result[LEFT_OUT] += left_out
    result.update(status for item in without_rates for status in item.tries)
    return +result


def statuses(planned: Iterable[Planned], last: Mapping[tuple[str, int], Row]) -> Counter[str]:
    """The number of cells of a plan by status, or `not run`."""
    by_key = {item.key: item.elsewhere for item in planned}
    return Counter(
        "ok" if elsewhere else str(last[key]["status"]) if key in last else "not run"
        for key, elsewhere in by_key.items()
    )


def fallen_back(planned: Iterable[Planned], last: Mapping[tuple[str, int], Row]) -> int:
    """The number of cells that ran again and failed, so that their older result counts. `last` is
    the row that counts for each cell, by `Planned.key`."""
    return sum(
        last[item.key]["status"] == "ok" and int(last[item.key]["attempt"] or 0) < item.attempt
        for item in planned
        if item.action == "run" and item.key in last
    )
