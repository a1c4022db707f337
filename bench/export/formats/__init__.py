"""The formats of an exported model, each with what it can express. Free of torch.

A format is an entry in formats.toml, and why it can't express a cell here, or an entry point
`minbert_bench.export_formats` of another distribution; a file that writes it; and a snippet, which
loads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from shutil import copyfile
from types import SimpleNamespace
from typing import Any, Final

from adapters.methods import METHODS
from adapters.names import trains_encoder
from bench.common.errors import InputError
from bench.export.trained import Trained
from bench.plan.cell import MINBERT, Cell
from minbert.files import CONFIG
from minbert.registry import Registry, load, read_tables

SNIPPET: Final = "predict.py"
BASE: Final = "base.json"  # name of the file that says which base an adapter was trained on
_SNIPPETS: Final = Path(__file__).parents[1] / "snippets"
ANSWERS: Final = _SNIPPETS / "answers.py"
"""The script that all formats share, which has the same name in an exported folder."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format; its writer and checker are functions as `module:function`."""

    name: str  # as `--format` takes it
    extra: str = ""  # this project's extra with its libraries; empty: a plugin brings them
    libraries: tuple[str, ...]  # as they are imported, for writing and for checking
    mark: str  # a file that is in every folder of the format, and in none of those before it
    snippet: Path  # the script that loads it
    cannot: Callable[[Cell], str | None]  # why it can't express a cell; None: it can
    writer: str  # writes a trained cell's model, tokenizer and configuration into a folder
    checker: str = ""  # refuses files of a folder that a library would not take for data alone
    config: str = CONFIG  # the file that names the classes
    is_adapter: bool = False  # whether it holds adapters, to be added to their base
    cut: str = f"by {SNIPPET}"  # what cuts texts, for the model card
    files: Mapping[str, str] = field(default_factory=dict)  # what each of its own is, for the card

    def write(self, trained: Trained, folder: Path) -> None:
        load(self.writer)(trained, folder)

    def check(self, folder: Path) -> None:
        if self.checker:
            load(self.checker)(folder)

    @property
    def install(self) -> str:
        what = f"-e '.[{self.extra}]'" if self.extra else " ".join(self.libraries)
        return f"pip install {what}"

    def script(self) -> Any:
        """The snippet's functions, which are imported with its libraries."""
        return SimpleNamespace(**run_path(str(self.snippet)))

    def copy_scripts(self, folder: Path) -> None:
        copyfile(self.snippet, folder / SNIPPET)
        copyfile(ANSWERS, folder / ANSWERS.name)


def _peft_cannot(cell: Cell) -> str | None:
    method = METHODS.get(cell.mode)
    if method is None or (cell.engine == MINBERT and method.peft is None):
        return f"no place for mode {cell.mode}, which has no adapters in its format"
    return _transformers_cannot(cell)


def _transformers_cannot(cell: Cell) -> str | None:
    if cell.head != "linear":
        return f"no place for a {cell.head} head"
    return None if cell.pooling == "pooler" else f"no place for {cell.pooling} pooling"


def _sentence_transformers_cannot(cell: Cell) -> str | None:
    if cell.engine != MINBERT and cell.pooling == "pooler" and cell.head == "linear":
        return "no place for the architecture's own head"
    return "no place for a conv head" if cell.head == "conv" else None


_CANNOT: Final[Mapping[str, Callable[[Cell], str | None]]] = {
    "peft": _peft_cannot,
    "transformers": _transformers_cannot,
    "sentence-transformers": _sentence_transformers_cannot,
    "onnx": lambda _cell: None,
}


def _declared(name: str, table: Mapping[str, Any]) -> Format:
    file = name.replace("-", "_")
    snippet, writer = _SNIPPETS / f"{file}.py", f"{__name__}.{file}:write"
    return Format(name=name, snippet=snippet, cannot=_CANNOT[name], writer=writer, **table)


_FORMATS: Final = [
    _declared(*declared) for declared in read_tables(__file__, "formats.toml").items()
]
FORMATS: Final = Registry(Format, "minbert_bench.export_formats", _FORMATS)
"""This project's are in the order of preference."""


def refusal(name: str, cell: Cell) -> str | None:
    """One line: why a format can't express a cell, and the format that can; None: it can."""
    reason = FORMATS[name].cannot(cell)
    if reason is None:
        return None
    return f"{name} has {reason}; use --format {default_format(cell, False)}"


def default_format(cell: Cell, merge: bool) -> str:
    """The first of this project's formats that can express a cell: none of adapters where these are
    merged, or the encoder trains too, whose weights would all be in the adapter's file."""
    whole = merge or cell.mode not in METHODS or trains_encoder(cell.mode, cell.layers)
    return next(
        each.name
        for each in _FORMATS
        if not (whole and each.is_adapter) and each.cannot(cell) is None
    )


def missing_library(format: Format) -> str | None:  # noqa: A002
    """One line: the libraries of a format that aren't installed, and the command that installs
    them; None: all are."""
    missing = [name for name in format.libraries if find_spec(name) is None]
    if not missing:
        return None
    return f"--format {format.name} needs {' and '.join(missing)}: {format.install}"


def format_in(folder: Path) -> Format:
    """The format of an exported folder; InputError if there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    for each in reversed(FORMATS.usable().values()):
        if (folder / each.mark).is_file() and (folder / SNIPPET).is_file():
            return each
    raise InputError(
        f"{folder}: holds no exported model; python -m bench.export writes one into a new folder"
    )
