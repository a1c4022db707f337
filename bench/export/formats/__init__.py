"""The formats of an exported model, each with what it can express. Free of torch.

A format is a file in this folder, which writes it, a snippet, which loads it, and an entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Final

from adapters.methods import METHODS
from adapters.names import trains_encoder
from bench.common.errors import InputError
from bench.plan.cell import MINBERT, Cell

if TYPE_CHECKING:
    from bench.export.trained import Trained

SNIPPET: Final = "predict.py"
"""Name of the snippet in an exported folder."""
BASE: Final = "base.json"
"""Name of the file that says which base an adapter was trained on."""
_SNIPPETS: Final = Path(__file__).parents[1] / "snippets"
_ANSWERS: Final = "answers.py"
"""Name of the script that all formats share, there and in an exported folder."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as `--format` takes it.
        extra: the extra with its libraries.
        libraries: names under which its libraries are imported, for writing and for checking.
        mark: a file that is in every folder of the format, and in none of those before it.
        config: the file that names the classes.
        snippet: the script that loads it.
        cannot: the reason why it can't express a cell; None: it can.
        write: writes a trained cell's model, tokenizer and config.json into a folder.
    """

    name: str
    extra: str
    libraries: tuple[str, ...]
    mark: str
    config: str
    snippet: Path
    cannot: Callable[[Cell], str | None]
    write: "Callable[[Trained, Path], None]"

    def copy_scripts(self, folder: Path) -> None:
        """Write the scripts that load the format and name its answers into an exported folder."""
        copyfile(self.snippet, folder / SNIPPET)
        copyfile(_SNIPPETS / _ANSWERS, folder / _ANSWERS)


def _writer(module: str) -> "Callable[[Trained, Path], None]":
    """The function `write` of a module, imported when it is called."""

    def write(trained: "Trained", folder: Path) -> None:
        import_module(f"{__name__}.{module}").write(trained, folder)

    return write


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


_FORMATS: Final = (
    Format(
        name="peft",
        extra="transformers",
        libraries=("transformers", "peft"),
        mark="adapter_config.json",
        config="config.json",
        snippet=_SNIPPETS / "peft.py",
        cannot=_peft_cannot,
        write=_writer("peft"),
    ),
    Format(
        name="transformers",
        extra="transformers",
        libraries=("transformers",),
        mark="model.safetensors",
        config="config.json",
        snippet=_SNIPPETS / "transformers.py",
        cannot=_transformers_cannot,
        write=_writer("transformers"),
    ),
    Format(
        name="sentence-transformers",
        extra="sentence-transformers",
        libraries=("sentence_transformers",),
        mark="modules.json",
        config="config_sentence_transformers.json",
        snippet=_SNIPPETS / "sentence_transformers.py",
        cannot=_sentence_transformers_cannot,
        write=_writer("sentence_transformers"),
    ),
    Format(
        name="onnx",
        extra="onnx",
        libraries=("onnx", "onnxruntime", "onnxscript"),
        mark="model.onnx",
        config="config.json",
        snippet=_SNIPPETS / "onnx.py",
        cannot=lambda _cell: None,
        write=_writer("onnx"),
    ),
)

FORMATS: Final[Mapping[str, Format]] = {each.name: each for each in _FORMATS}
"""In the order of preference."""


def refusal(name: str, cell: Cell) -> str | None:
    """One line: why a format can't express a cell, and the format that can; None: it can."""
    reason = FORMATS[name].cannot(cell)
    if reason is None:
        return None
    return f"{name} has {reason}; use --format {default_format(cell, False)}"


def default_format(cell: Cell, merge: bool) -> str:
    """The first format that can express a cell: but peft where adapters are merged, or where the
    encoder trains too, whose weights would all be in the adapter's file."""
    whole = merge or cell.mode not in METHODS or trains_encoder(cell.mode, cell.layers)
    return next(
        each.name
        for each in _FORMATS
        if not (whole and each.name == "peft") and each.cannot(cell) is None
    )


def missing_library(format: Format) -> str | None:  # noqa: A002
    """One line: the libraries of a format that aren't installed, and the command that installs
    them; None: all are."""
    missing = [name for name in format.libraries if find_spec(name) is None]
    if not missing:
        return None
    return (
        f"--format {format.name} needs {' and '.join(missing)}: pip install -e '.[{format.extra}]'"
    )


def format_in(folder: Path) -> Format:
    """The format of an exported folder.

    Raises:
        InputError: if there is no such folder, or it holds no exported model.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    for each in reversed(_FORMATS):
        if (folder / each.mark).is_file() and (folder / SNIPPET).is_file():
            return each
    raise InputError(
        f"{folder}: holds no exported model; python -m bench.export writes one into a new folder"
    )
