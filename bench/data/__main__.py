"""What is in a data set: its classes, duplicates, leaks from dev, conflicting labels, lengths and
encoding errors.

Examples:
  python -m bench.data
  python -m bench.data train.csv --label topic --reports reports/
  python -m bench.data reviews.csv --write examples/
  python -m bench.data --task quora path/to/folder --model path/to/checkpoint --json
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import click

from bench.common.command import described, options_in, run_command
from bench.common.errors import InputError, writing
from bench.common.files import write_atomically
from bench.common.messages import echo
from bench.common.progress import ShowStep, note_to_stderr, progress_bar
from bench.examples.checks import LONGEST, SAMPLE, THRESHOLD, N
from bench.examples.own import PATH, find_source, merged, with_details
from bench.examples.tokens import tokenizer_of
from bench.launch.checks import check_reports
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.plan.gridfile import Settings
from bench.plan.models import find_model
from bench.references.client import FACT_STEPS, find_facts, tokens_of
from bench.results.facts import DataFacts
from minbert.data.tasks import TaskData, load_task
from minbert.data.tasks.prepared import lines
from minbert.data.tasks.splitting import DEV, TRAIN

_PAGES: Final = "data"  # name of the pages and of the folder of their figures
_MODEL: Final = str(Settings().model)
_SLOW: Final = 5000  # examples above which checks take seconds, and progress is shown
_HOW: Final = (
    "Texts are compared without case and punctuation; a pair is compared by both texts.",
    f"Near duplicates share {THRESHOLD:.0%} of their character {N}-grams (Jaccard similarity), of "
    f"the first {LONGEST:,} characters. They are searched by MinHash, among at most {SAMPLE:,} "
    "distinct texts chosen by digest.",
    "Lengths of pairs are those of both texts; tokens include special ones.",
)


@described(__doc__)
@click.argument("path", required=False, metavar=f"[{PATH}]")
@options_in(__file__, "options.toml", groups={"data": with_details}, model=_MODEL, pages=_PAGES)
def command(
    data: dict[str, Any], task: str | None, model: str | None, as_json: bool,
    reports: Path | None, write: Path | None,
) -> int:  # fmt: skip
    if reports is not None:
        check_reports(reports, _PAGES)
    source = find_source(task, merged(None, data))
    examples = load_task(source.task, source.folder)
    if write is not None:
        _write(examples, write)
    notes = [*source.notes, *examples.notes, *examples.problems]
    note_to_stderr(*notes)
    facts = _facts(examples, source.files, model or _MODEL)

    from bench.report.data import lines_on, tables
    from bench.report.tables import print_tables

    if as_json:
        echo(json.dumps(facts.model_dump(mode="json"), indent=2))
    else:
        print_tables(tables(facts), lines_on(facts)[1:])
    if reports is not None:
        echo(f"report: {_write_page(reports, facts, notes)}", err=True)
    return 0


def _write(data: TaskData, folder: Path) -> None:
    """Write the examples of both sides, an example a line, with the names of their classes.
    InputError for a folder with such files, or one that can't be written."""
    paths = {TRAIN: folder / f"{TRAIN}.jsonl", DEV: folder / f"{DEV}.jsonl"}
    if taken := [path for path in paths.values() if path.exists()]:
        raise InputError(f"--write {folder}: has a {taken[0].name} already; give another folder")
    with writing(f"--write {folder}", kind=InputError):
        folder.mkdir(parents=True, exist_ok=True)
        for side, examples in ((TRAIN, data.train), (DEV, data.dev)):
            text = "".join(lines(examples, data.task.classes))
            write_atomically(paths[side], text.encode())
    echo(f"examples: {' and '.join(map(str, paths.values()))}", err=True)


def _facts(data: TaskData, source: str, model: str) -> DataFacts:
    """The facts on a task's examples, in tokens of a model by its name on a command line, or
    InputError; progress is shown if it takes long."""
    encoder = find_model(model, "pretrained", "auto")
    longest = encoder.config.max_position_embeddings
    is_slow = len(data.train) + len(data.dev) >= _SLOW
    silent = nullcontext[ShowStep](lambda _number, _name: None)
    with progress_bar(FACT_STEPS) if is_slow else silent as show:
        engine = TRANSFORMERS if encoder.why_not_minbert else MINBERT
        tokenizer = tokenizer_of(engine, encoder.tokenizer)
        vocabulary = tokens_of(encoder.tokenizer, longest)
        return find_facts(data, source, tokenizer, vocabulary, longest, show)


def _write_page(folder: Path, facts: DataFacts, notes: Sequence[str]) -> Path:
    from bench.report.data import drawings, lines_on, tables
    from bench.report.pages import Facts, called, sections_of, write_pages
    from bench.report.text import plain

    title, *lines = lines_on(facts)
    page = Facts(
        title=title,
        findings=lines,
        sections=sections_of([], tables(facts), drawings(facts)),
        how="How it was checked",
        notes=[*_HOW, *map(plain, notes)],
        command=called("data"),
    )
    return write_pages(folder, _PAGES, page)


if __name__ == "__main__":
    run_command(command)
