"""The search for learning rates: its multipliers, its end, and its choice."""

from dataclasses import replace
from types import SimpleNamespace

from bench.forecast.outlook import Outlook
from bench.grid.plans import rounds
from bench.plan import gridfile, learning_rates
from bench.plan.learning_rates import Search, kind_of, origin_of
from bench.plan.planning import Resolved, expand, plan
from tests.bench.synthetic_rows import HERE, planned_row

SMOKE = gridfile.load("smoke")
RATES = gridfile.Rates(full=2e-4, adapter=1e-3, base=1e-4, head=1e-3)
MODEL = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
CELLS = expand(gridfile.with_settings(SMOKE, {"learning_rates": RATES}), MODEL)
LORA = next(cell for cell in CELLS if cell.mode == "lora")
HEAD = next(cell for cell in CELLS if cell.mode == "head")


def test_multipliers_are_powers_of_the_root_of_ten_and_a_cell_says_whence_its_rates_are():
    rates = learning_rates.at_exponent(replace(LORA, learning_rate_base=1e-4), 1)
    names = ("learning_rate", "learning_rate_base", "learning_rate_head")
    assert rates == dict(zip(names, (3.16e-3, 3.16e-4, 3.16e-3), strict=True))
    assert learning_rates.at_exponent(HEAD, -2) == dict(zip(names, (None, None, 1e-4), strict=True))
    assert {origin_of(cell) for cell in expand(SMOKE, MODEL)} == {"default"}
    assert {origin_of(cell) for cell in CELLS} == {"given"}
    assert origin_of(replace(LORA, learning_rate_head=2e-3)) == "given"
    assert origin_of(replace(LORA, learning_rate_source="search")) == "tuned"


def peak_at(best):
    def score(cell):
        rate = cell.learning_rate or cell.learning_rate_head
        return (0.6 - abs(rate - best) / (rate + best), 1.0)

    return score


def searched(score, cells=(LORA,)):
    """A search that has run, by scores and losses or failures, and the candidates of its rounds."""
    rows, rounds = {}, []
    search = Search(cells, "d2", lambda cell: rows.get(cell.cell_id))
    for candidates in search.rounds():
        rounds.append(candidates)
        for cell in candidates:
            found = score(cell)
            ok = {"status": "ok", "dev_score": found[0], "dev_loss": found[1]}
            ended = {"status": found} if isinstance(found, str) else ok
            rows[cell.cell_id] = planned_row(cell) | ended
    return search, rounds


def test_multipliers_are_added_while_the_best_is_at_an_end_and_what_failed_is_no_choice():
    search, tries = searched(peak_at(0.01))
    assert [*map(len, tries)] == [3, 1, 1]
    assert {(c.learning_rate_source, c.data_digest) for c in tries[0]} == {("candidate", "d2")}
    found = search.tuned(LORA)
    assert (found.learning_rate, found.learning_rate_source) == (0.01, "search")
    for sign in (1, -1):
        _, tries = searched(lambda cell, sign=sign: (sign * cell.learning_rate, 1.0))
        assert sum(map(len, tries)) == learning_rates.MOST, "they have an end"
    search, _ = searched(lambda cell: (0.5, abs(cell.learning_rate - 3.16e-4)))
    assert search.tuned(LORA).learning_rate == 3.16e-4, "of equal scores the lower loss"
    search, _ = searched(lambda cell: (0.4, 1.0) if cell.learning_rate < 1e-3 else "invalid")
    assert search.tuned(LORA).learning_rate < 1e-3
    search, [_] = searched(lambda cell: "invalid")
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
    search, [only] = searched(peak_at(1e-3), ranks)
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


def test_lower_ranks_are_searched_where_the_highest_fails_or_exceeds_the_default_rate():
    ranks = [replace(LORA, rank=rank) for rank in (1, 8, 2)]
    best = {8: 3.16e-3, 2: 1e-3, 1: 1e-4}
    search, tries = searched(lambda c: peak_at(best.get(c.rank, 1e-3))(c), [*ranks, HEAD])
    tried = [[cell.rank for cell in each] for each in tries]
    assert {*tried[0]} == {8, None}
    of_lower = [each for each in tried if {*each} & {1, 2}]
    assert len(of_lower[0]) == 6
    assert sum(map(len, of_lower)) == 8, "rank 1 goes on below 3.16e-4"
    tuned = [search.tuned(cell).learning_rate for cell in ranks]
    assert tuned == [1e-4, 3.16e-3, 1e-3]
    assert search.tuned(replace(ranks[0], amp="off")).learning_rate == 1e-4
    assert search.statuses(ranks[0]) == ("ok",) * 5
    ranks = [replace(LORA, rank=rank) for rank in (1, 64, 8)]
    search, tries = searched(lambda c: "oom" if c.rank == 64 else peak_at(1e-3)(c), ranks)
    assert [{cell.rank for cell in each} for each in tries] == [{64}, {8}]
    assert [search.tuned(cell).learning_rate for cell in ranks] == [1e-3] * 3
    search, tries = searched(lambda cell: "oom", ranks)
    assert [{cell.rank for cell in each} for each in tries] == [{64}, {8}, {1}]
    assert search.statuses(ranks[0]) == ("oom",) * 3
    [_] = Search(ranks, "d2", lambda cell: None).rounds()  # without rows it ends
