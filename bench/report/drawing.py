"""The canvas and colours of all figures, and their SVG as a file and in a page.

Text stays text. Ink and paper are single colours, which `inline` replaces by those of the page.
"""

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK: Final = "#1f2a33"
PAPER: Final = "#fefefe"
GRID: Final = "#d9dfe4"
GREY: Final = "#8a959e"
BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"
"""Okabe and Ito's, for colour-blind readers."""
MARK: Final = "<!-- drawn by bench.report -->"
"""A comment in each figure; only old figures that have it are deleted."""

_STYLE: Final[Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "bench.report", "text.parse_math": False,
    "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 10.0, "axes.labelsize": 10.0, "axes.titlesize": 10.0, "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0, "legend.fontsize": 9.0, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.edgecolor": GREY, "grid.color": GRID, "grid.linewidth": 0.7,
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "lines.linewidth": 1.4,
    "axes.titleweight": "bold", "axes.titlelocation": "left",
}  # fmt: skip
mpl.rcdefaults()  # without what a matplotlibrc says, which may lie in the current folder
_WIDTH: Final = 4.7
_MOST_TICKS: Final = 6


@dataclass(frozen=True)
class Drawing:
    """A figure: its file's stem, the SVG, its content in words, and its caption."""

    stem: str
    svg: str
    alt: str
    caption: str

    @classmethod
    def of(cls, figure: Figure, stem: str, alt: str, caption: str) -> "Drawing":
        """The drawing of a figure; ids in its SVG start with the stem, to be unique."""
        with mpl.rc_context(_STYLE), _other_scripts():
            lay_out(figure)
            figure.set_layout_engine(None)  # else saving would draw twice
            figure.savefig(buffer := StringIO(), format="svg", metadata={"Date": None})
        text = buffer.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{stem}-", text)
        fonts = r"font: \1 'DejaVu Sans', Verdana, sans-serif"
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", fonts, text)
        return cls(stem, text.replace(">", f">\n{MARK}", 1), alt, caption)


@contextmanager
def canvas(height: float, lines: int = 1, columns: int = 1) -> Iterator[tuple[Figure, Axes]]:
    """A figure of a height in inches, and its axes, the first of several in lines and columns."""
    import seaborn as sns  # imported late, for it is slow and few commands draw

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context({**sns.axes_style("whitegrid"), **_STYLE}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(lines, columns, squeeze=False)[0, 0]
        sns.despine(figure)


@contextmanager
def _other_scripts() -> Iterator[None]:
    """Without warnings on text that the font for measuring lacks; browsers have others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def lay_out(figure: Figure) -> None:
    """Set the positions of everything in a figure, as drawing would."""
    if engine := figure.get_layout_engine():
        with _other_scripts():
            engine.execute(figure)


def name_lines(axes: Axes, names: Sequence[str], room: float = 0.45, **style: Any) -> None:
    """Name the horizontal lines of a figure, the first on top."""
    axes.set_yticks(range(len(names)), names, **style)
    axes.set_ylim(len(names) - room, room - 1)
    axes.grid(visible=False, axis="y")


def add_legend(figure: Figure, handles: Sequence[Artist], most: int = 6, **style: Any) -> None:
    """Add a legend below the axes with at most so many columns, unless it is empty."""
    if handles:
        usual = {"ncols": min(len(handles), most), "columnspacing": 1.2, "handletextpad": 0.4}
        figure.legend(handles=handles, loc="outside lower center", **usual | style)


def log_axis(
    axes: Axes, low: float, high: float, form: Callable[[float], str] = "{:g}".format
) -> None:
    """Make the horizontal axis logarithmic, with round numbers in a range as its ticks: 1, 2 and 5
    times each power of ten, or only 1 if these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine, coarse = (
        [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        for factors in ((1, 2, 5), (1,))
    )
    ticks = fine if len(fine) <= _MOST_TICKS else coarse
    axes.set_xscale("log")
    axes.set_xticks(ticks, [form(tick) for tick in ticks])
    axes.minorticks_off()


def inline(drawing: Drawing) -> str:
    """The SVG for a page: of any size, in the page's colours, labelled for screen readers."""
    text = re.sub(r'<svg ([^>]*?)\s*width="[^"]*"', r"<svg \1", drawing.svg, count=1)
    text = re.sub(r'\s*height="[\d.]+pt"', "", text, count=1)
    text = text.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    text = text.replace(GRID, "var(--grid)").replace(BLUE, "var(--lora)")
    return text.replace("<svg ", f'<svg role="img" aria-labelledby="{drawing.stem}-alt" ', 1)
