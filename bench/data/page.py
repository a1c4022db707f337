"""The page of a data set, with its figures. Importing this loads matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from bench.examples.checks import SAMPLE
from bench.examples.near import LONGEST, THRESHOLD, N
from bench.report.data import drawings, heading, sentences, tables
from bench.report.pages import Facts, sections_of, write_pages
from bench.report.text import plain, without_paths
from bench.results.facts import DataFacts

_SAID = (
    "Texts are compared without case and punctuation; a pair is compared by both texts.",
    f"Near duplicates share {THRESHOLD:.0%} of their character {N}-grams (Jaccard similarity), of "
    f"the first {LONGEST:,} characters. They are searched by MinHash, among at most {SAMPLE:,} "
    "distinct texts chosen by digest.",
    "Lengths of pairs are those of both texts; tokens include special ones.",
)


def write_page(
    folder: Path, name: str, data: DataFacts, notes: Sequence[str], command: str
) -> Path:
    """Write the pages, and return the path of the HTML page.

    Args:
        notes: remarks on the data.
        command: the command line that made it.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    facts = Facts(
        title=heading(data),
        findings=sentences(data),
        sections=sections_of([], tables(data), drawings(data)),
        how="How it was checked",
        said=[*_SAID, *map(plain, notes)],
        command=without_paths(command),
    )
    return write_pages(folder, name, facts)
