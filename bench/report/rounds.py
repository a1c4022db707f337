"""The report's sections on what went in rounds: the tries of a search for learning rates, and its
choices; and who was in a race, who left when and why, and its answer."""

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

import pandas as pd
from matplotlib.patches import Patch

from bench.analysis.groups import Group
from bench.analysis.racing import Raced
from bench.analysis.recommendation import Recommendation
from bench.plan.cell import SEARCHED, Value, named
from bench.plan.metrics import metric_of
from bench.plan.rows import Row, current_rows
from bench.report import figures
from bench.report.cells import why
from bench.report.drawing import BLUE, GREEN, GREY, ORANGE, Drawing, add_legend, canvas
from bench.report.pages import Section, phrase, sentences
from bench.report.tables import Table, table
from bench.report.text import signed
from bench.stats.best import ROUNDS

_choice: Final = attrgetter(
    *("mode", "layers", "rank", "unfreeze"),
    *("learning_rate", "learning_rate_base", "learning_rate_head"),
)
_conditions: Final = attrgetter(
    *(n for n in named(lambda about: about.compared in ("group", "never")) if n != "data_digest"),
    *("task", "max_train", "max_dev"),
)
"""What a search's tries share with the cells that they are for; data and machine differ."""
_COLOURS: Final = {"pick": GREEN, "best": BLUE, "open": ORANGE, "left": GREY}


def rates_section(
    group: Group | None, rows: Sequence[Row], planned: Sequence[Row] = ()
) -> list[Section]:
    """The section on the searches for a group's rates and on other searches; none without any."""
    frame = candidates(group, rows, planned)
    if frame.empty:
        return []
    here, others = frame[frame["here"]], frame[~frame["here"]]
    kinds = {str(kind): tries for kind, tries in here.groupby("kind", sort=False)}
    unused = [kind for kind, tries in kinds.items() if not tries["chosen"].any()]
    heading, *lines = sentences(
        "rates", here=here, others=others, searches=len(kinds), used=len(kinds) - len(unused),
        elsewhere=int(here["elsewhere"].sum()), states=here["data"].nunique(), unused=unused,
        edges=[
            kind for kind, tries in kinds.items()
            if tries["rate"][tries["chosen"]].isin(tries["rate"].agg(["min", "max"])).any()
        ],
    )  # fmt: skip
    drawings, scored = [], here.dropna(subset=["score"])
    if not scored.empty:
        label = f"held-out {metric_of(scored['metric'].iloc[0]).label}"
        drawings = [figures.rates(scored, label, "rates", phrase("captions", "search"))]
    tables = [] if here.empty else [_table(here, "task", "Every rate that was tried.")]
    if not others.empty:
        tables.append(_table(others, "chosen", "Tries of searches for other cells."))
    return [Section("rates", "Learning rates", heading, lines, drawings, tables)]


def candidates(group: Group | None, rows: Sequence[Row], planned: Sequence[Row]) -> pd.DataFrame:
    """A row for each try: its rate, score and status. `here` marks the tries for the group's cells:
    those of their machine, and those of other machines whose scores a search uses. `chosen` marks
    the rates that the group's cells have."""
    done = {key: row for key, row in current_rows(rows).items() if row.is_candidate}
    waiting = [row for row in planned if row.is_candidate and row.key not in done]
    cells: Sequence[Row] = group.rows if group else ()
    machine = group.first.conditions_id if group else None
    borrowed = _borrowed(group.first, list(done.values())) if group else {}
    searched = {_conditions(row) for row in cells}
    used = {_choice(row) for row in cells if row.learning_rate_source == SEARCHED}
    records = [
        {
            "here": _conditions(row) in searched
            and (row.conditions_id == machine or borrowed.get(row.cell_id) is row),
            "elsewhere": row.conditions_id != machine,
            "task": row.task, "kind": _kind(row),
            "mode": row.mode, "amp": row.amp, "rank": row.rank or 0,
            "rate": row.learning_rate or row.learning_rate_head,
            "score": row.dev_score, "loss": row.dev_loss,
            "status": row.status or "not run",
            "why": "" if row.status in ("ok", None) else why(row),
            "data": row.data_digest, "metric": row.dev_metric,
            "chosen": _choice(row) in used,
        }
        for row in [*done.values(), *(replace(row, status=None) for row in waiting)]
    ]  # fmt: skip
    if not records:
        return pd.DataFrame()
    frame = pd.DataFrame(records).astype({"rate": float, "score": float, "loss": float})
    frame["chosen"] &= frame["here"]
    return frame.sort_values(["task", "mode", "kind", "rate"], ignore_index=True)


def _borrowed(here: Row, tries: Sequence[Row]) -> dict[Value, Row]:
    """The tries of other machines whose scores count here, by cell_id: those with the same software
    of cells that this machine has not scored, as in `bench.results.store`."""
    machine, scored = here.conditions_id, [row for row in tries if row.has_score]
    own = {row.cell_id for row in scored if row.conditions_id == machine}
    return {
        row.cell_id: row
        for row in scored
        if row.conditions_id != machine and row.cell_id not in own
        if row.software == here.software
    }


def _kind(row: Row) -> str:
    adapter = f" rank {row.rank} on {row.layers}" if row.rank is not None else ""
    unfreezing = ", unfreezing" if row.unfreeze not in (None, "all") else ""
    return f"{row.mode}{adapter}{unfreezing}"


def _table(tries: pd.DataFrame, without: str, caption: str) -> Table:
    chosen = tries["chosen"].map({True: "yes", False: ""})
    rows = tries.assign(chosen=chosen).drop(columns=without).to_dict("records")
    return table("rates", rows, caption, folded=True)


def race_section(recommended: Recommendation | None) -> list[Section]:
    """The section on the race that decides; none without one."""
    if recommended is None or recommended.raced is None:
        return []
    raced = recommended.raced
    shown = [_entry(raced, i) for i in range(len(raced.settings))]
    heading = phrase("captions", "race_heading", raced, ROUNDS)
    drawing = _bars(shown, phrase("captions", "race"))
    return [Section("race", "Race", heading, [], [drawing], [table("race", shown, folded=True)])]


def _entry(raced: Raced, i: int) -> dict[str, Any]:
    race, setting = raced.race, raced.settings[i]
    state = "left" if i in race.left else "open"
    if race.is_over and i == race.shown:
        state = "pick"
    elif race.is_over and i == raced.best:
        state = "best"
    return {
        "setting": setting.label, "state": state, "gap": raced.gap(i),
        "rounds": race.left.get(i, len(race.rounds)),
        "score": raced.group.scoring.gain(float(raced.scores[i])),
    }  # fmt: skip


def _bars(entries: Sequence[dict[str, Any]], caption: str) -> Drawing:
    """A bar over the rounds of each setting, and at its end how it stood."""
    with canvas(0.9 + 0.24 * len(entries)) as (figure, axes):
        for place, entry in enumerate(entries):
            rounds, gap = entry["rounds"], entry["gap"]
            axes.barh(place, rounds, color=_COLOURS[entry["state"]], height=0.6)
            if gap is not None:
                axes.text(rounds + 0.08, place, signed(100 * gap, 1), va="center", fontsize=7)
        axes.set(xlim=(0, ROUNDS + 0.7), xlabel="rounds", xticks=range(ROUNDS + 1))
        axes.set_yticks(range(len(entries)), [entry["setting"] for entry in entries])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        states = dict.fromkeys(entry["state"] for entry in entries)
        add_legend(figure, [Patch(color=_COLOURS[state], label=state) for state in states])
    names = (f"{e['setting']}: {e['state']} after round {e['rounds']}" for e in entries)
    return Drawing.of(figure, "race", f"{'; '.join(names)}.", caption)
