"""The search for learning rates: its multipliers, its end, and its choice."""

from dataclasses import replace
from types import SimpleNamespace

from bench.forecast.outlook import Outlook
from bench.grid.plans import rounds
from bench.plan import gridfile, learning_rates
from bench.plan.learning_rates import Search, kind_of
from bench.plan.planning import Resolved, expand, plan
from bench.plan.rows import Row
from tests.bench.synthetic_rows import HERE, planned_row

SMOKE = gridfile.load("smoke")
RATES = gridfile.Rates(full=1e-4, adapter=1e-3, base=1e-4, head=1e-3)
MODEL = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
CELLS = expand(gridfile.with_settings(SMOKE, {"learning_rates": RATES}), MODEL)
LORA = next(cell for cell in CELLS if cell.mode == "lora")
HEAD = next(cell for cell in CELLS if cell.mode == "head")


def test_multipliers_are_powers_of_the_root_of_ten_and_a_cell_says_whence_its_rates_are():
    rates = learning_rates.at_exponent(replace(LORA, learning_rate_base=1e-4), 1)
    names = ("learning_rate", "learning_rate_base", "learning_rate_head")
    assert rates == dict(zip(names, (3.16e-3, 3.16e-4, 3.16e-3), strict=True))
    rates = learning_rates.at_exponent(HEAD, -2)
    assert rates == dict(zip(names, (None, None, 1e-4), strict=True))
    origin_of = learning_rates.origin_of
    assert {origin_of(cell) for cell in expand(SMOKE, MODEL)} == {"default"}
    assert {origin_of(cell) for cell in CELLS} == {"given"}
    assert origin_of(replace(LORA, learning_rate_head=2e-3)) == "given"
    assert origin_of(replace(LORA, learning_rate_source="search")) == "tuned"


class Runs:
    """Runs candidates: a score and a loss for each, or a status where it failed."""

    def __init__(self, score):
        self.score = score
        self.rows: dict[str, Row] = {}

    def search(self, cells, digest="d2"):
        return Search(cells, digest, lambda cell: self.rows.get(cell.cell_id))

    def run(self, search):
        rounds = []
        for candidates in search.rounds():
            rounds.append(candidates)
            for cell in candidates:
                found = self.score(cell)
                ok = {"status": "ok", "dev_score": found[0], "dev_loss": found[1]}
                ended = {"status": found} if isinstance(found, str) else ok
                self.rows[cell.cell_id] = planned_row(cell) | ended
        return rounds


def peak_at(best):
    """Scores that are highest at a rate."""

    def score(cell):
        rate = cell.learning_rate or cell.learning_rate_head
        return (0.6 - abs(rate - best) / (rate + best), 1.0)

    return score


def test_three_rates_for_each_kind_and_the_best_is_taken():
    runs = Runs(peak_at(1e-3))
    cells = [cell for cell in CELLS if cell.mode != "full"]
    search = runs.search(cells, "other data")
    (only,) = runs.run(search)
    assert len(only) == 3 * len({kind_of(cell) for cell in cells})
    assert {cell.learning_rate_source for cell in only} == {"candidate"}
    assert {cell.data_digest for cell in only} == {"other data"}
    found = search.tuned(LORA)
    assert (found.learning_rate, found.learning_rate_source) == (1e-3, "search")
    assert replace(found, learning_rate_source="grid") == LORA
    again = runs.search(cells, "other data")
    asked = {cell.cell_id for cells in again.rounds() for cell in cells}
    assert asked <= {cell.cell_id for cell in only}, "the same that have run"
    assert [again.tuned(cell) for cell in cells] == [search.tuned(cell) for cell in cells]


def searched(score, cells=(LORA,)):
    """A search that has run, with the number of candidates of each round."""
    runs = Runs(score)
    search = runs.search(cells)
    return search, [len(each) for each in runs.run(search)]


def test_multipliers_are_added_while_the_best_is_at_an_end_and_what_failed_is_no_choice():
    search, numbers = searched(peak_at(0.01))
    assert numbers == [3, 1, 1]
    assert search.tuned(LORA).learning_rate == 0.01
    for sign in (1, -1):
        _, numbers = searched(lambda cell, sign=sign: (sign * cell.learning_rate, 1.0))
        assert sum(numbers) == learning_rates.MOST, "they have an end"
    search, _ = searched(lambda cell: (0.5, abs(cell.learning_rate - 3.16e-4)))
    assert search.tuned(LORA).learning_rate == 3.16e-4, "of equal scores the lower loss"
    search, _ = searched(lambda cell: (0.4, 1.0) if cell.learning_rate < 1e-3 else "invalid")
    assert search.tuned(LORA).learning_rate < 1e-3
    search, numbers = searched(lambda cell: "invalid")
    assert len(numbers) == 1
    assert search.tuned(LORA) is None


def test_a_kind_without_rates_is_skipped_the_others_run_and_no_search_is_repeated():
    score = peak_at(1e-3)
    search, _ = searched(lambda cell: "timeout" if cell.rank else score(cell), [LORA, HEAD])
    *tries, last = rounds([LORA, HEAD], lambda cells: plan(cells, {}, HERE, repeats=2), search)
    assert {item.repeat for planned in tries for item in planned} == {1}
    lora, head, again = last
    assert [(item.action, item.repeat) for item in (head, again)] == [("run", 1), ("run", 2)]
    assert head.cell.learning_rate_head == again.cell.learning_rate_head == 1e-3
    assert (lora.action, lora.repeat, lora.tries) == ("skip", 1, ("timeout",) * 3)
    assert lora.reason.endswith("ended 3 timeout; --rerun timeout tries them again")
    assert lora.cell.learning_rate is lora.cell.learning_rate_head is None
    assert lora.cell.cell_id != LORA.cell_id, "whose own rates may have run"


def test_of_cells_that_are_skipped_without_rates_nothing_is_predicted_until_they_have_run():
    without = learning_rates.without_rates(LORA)
    head, lora = plan([HEAD, without], {}, HERE)
    lora = replace(lora, action="skip")
    forecast = SimpleNamespace(time_s=lambda cell: {HEAD.mode: 7.0}[cell.mode])
    outlook = Outlook(forecast, [lora, head])
    assert outlook.begin(lora.cell) == (None, None)
    assert outlook.begin(head.cell) == (7.0, 0.0)
    old = planned_row(without) | {"status": "skipped"}
    new = planned_row(replace(LORA, learning_rate_source="search")) | {"status": "ok"}
    assert learning_rates.still_lacking([old, new]) == [new]
    other = new | {"seed": 1}
    assert learning_rates.still_lacking([old, other]) == [old, other]


def test_ranks_share_the_rates_of_the_highest_at_the_usual_alpha_alone():
    ranks = [replace(LORA, rank=rank) for rank in (1, 8, 2)]
    runs = Runs(peak_at(1e-3))
    search = runs.search(ranks)
    (only,) = runs.run(search)
    assert {cell.rank for cell in only} == {8}
    tuned = [search.tuned(cell) for cell in ranks]
    assert [cell.rank for cell in tuned] == [1, 8, 2]
    assert len({cell.learning_rate for cell in tuned}) == 1
    for others in ({"alpha": 128.0}, {"use_rslora": "on"}, {"mode": "vera"}):
        assert len({kind_of(replace(cell, **others)) for cell in ranks}) == 3
    assert kind_of(replace(LORA, model="another")) != kind_of(LORA)
    for cells, amp in ((CELLS, "bf16"), ([c for c in CELLS if c.amp == "off"], "off")):
        first = next(Search(cells, "d2", lambda cell: None).rounds())
        assert {cell.amp for cell in first} == {amp}, "that of the cells where any has it"


def test_lower_ranks_are_searched_where_the_best_rate_exceeds_the_default():
    ranks = [replace(LORA, rank=rank) for rank in (1, 8, 2)]
    runs = Runs(lambda cell: peak_at({8: 3.16e-3, 2: 1e-3, 1: 1e-4}.get(cell.rank, 1e-3))(cell))
    search = runs.search([*ranks, HEAD])
    tried = [[(cell.mode, cell.rank) for cell in each] for each in runs.run(search)]
    assert {rank for _, rank in tried[0]} == {8, None}
    of_lower = [each for each in tried if {rank for _, rank in each} & {1, 2}]
    assert len(of_lower[0]) == 6
    assert sum(map(len, of_lower)) == 8, "rank 1 goes on below 3.16e-4"
    tuned = [search.tuned(cell).learning_rate for cell in ranks]
    assert tuned == [1e-4, 3.16e-3, 1e-3]
    assert search.tuned(replace(ranks[0], amp="off")).learning_rate == 1e-4
    assert search.statuses(ranks[0]) == ("ok",) * 5


def test_a_rank_that_fails_leaves_the_search_to_the_next_lower_one():
    ranks = [replace(LORA, rank=rank) for rank in (1, 64, 8)]
    runs = Runs(lambda cell: "oom" if cell.rank == 64 else peak_at(1e-3)(cell))
    search = runs.search(ranks)
    assert [{cell.rank for cell in each} for each in runs.run(search)] == [{64}, {8}]
    assert [search.tuned(cell).learning_rate for cell in ranks] == [1e-3] * 3
    runs = Runs(lambda cell: "oom")
    search = runs.search(ranks)
    assert [{cell.rank for cell in each} for each in runs.run(search)] == [{64}, {8}, {1}]
    assert search.statuses(ranks[0]) == ("oom",) * 3
    assert len([*runs.search(ranks, "another digest").rounds()]) == 1, "without rows it ends"
