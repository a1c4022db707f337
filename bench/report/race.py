"""The report's section on a race: who was in it, who left when and why, and its answer."""

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.patches import Patch

from bench.analysis.racing import Raced
from bench.analysis.recommendation import Recommendation
from bench.report.drawing import BLUE, GREEN, GREY, ORANGE, Drawing, add_legend, canvas
from bench.report.pages import Section, phrase
from bench.report.tables import table
from bench.report.text import signed
from bench.stats.best import ROUNDS

_COLOURS: Final = {"pick": GREEN, "best": BLUE, "open": ORANGE, "left": GREY}


def race_section(recommended: Recommendation | None) -> list[Section]:
    """The section on the race that decides; none without one."""
    if recommended is None or recommended.raced is None:
        return []
    raced = recommended.raced
    shown = [_entry(raced, i) for i in range(len(raced.settings))]
    heading = phrase("captions", "race_heading", raced, ROUNDS)
    drawing = _drawing(shown, phrase("captions", "race"))
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


def _drawing(entries: Sequence[dict[str, Any]], caption: str) -> Drawing:
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
