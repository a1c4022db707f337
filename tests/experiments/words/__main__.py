"""Write the tables of docs/tokens.md: python -m tests.experiments.words"""

from tests.experiments.words import PAGE, page

PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
