"""The documentation as a site: `python -m sphinx -W --keep-going -n docs docs/_build`."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

project = "minbert-bench"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
smartquotes = False  # `--flag` in plain text stays as it is
html_theme = "furo"
html_title = "minbert-bench"
html_copy_source = False


def offer_files_outside(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Pages outside this folder, such as ../SECURITY.md, are no pages of the site but downloads."""
    source[0] = re.sub(r"\]\((\.\./[\w./-]+\.md)(#[\w-]+)?\)", r"](path:\1)", source[0])


def refuse_other_hosts(app: Sphinx, failure: Exception | None) -> None:
    """No page loads anything from another host: scripts, styles, fonts and images are here."""
    loads = re.compile(
        r"""<(?!a\b)\w+[^>]*\b(?:src|srcset|href|data)\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
        r"""|(?:url\(\s*["']?|@import\s+["'])(?:https?:)?//[^"')\s]+"""
    )
    for path in () if failure else sorted(Path(app.outdir).rglob("*")):
        if path.suffix in {".html", ".css"} and (found := loads.search(path.read_text("utf-8"))):
            raise ExtensionError(
                f"{path.relative_to(app.outdir)} loads from another host: {found[0]}"
            )


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", offer_files_outside)
    app.connect("build-finished", refuse_other_hosts)
    return {"parallel_read_safe": True}
