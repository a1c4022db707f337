"""Trained weights that cells keep: whose, and up to how much of the disk."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from adapters.methods import PEFT
from adapters.names import trains_encoder
from bench.plan.cell import DEFAULT, MINBERT, Cell
from bench.results.protocol import WEIGHTS
from bench.results.store import cells_folder
from minbert.model.config import BertConfig, EncoderSizes, count_parameters

CAP: Final = 2**30
"""Bytes of all kept weights of a CSV, at which cells no longer keep theirs unless all do."""


def keeps_by_default(cell: Cell) -> bool:
    """Whether a cell keeps its weights without being asked to: small ones of a useful model."""
    is_useful = cell.init == "pretrained" and not cell.is_trial
    return is_useful and not trains_encoder(cell.mode, cell.layers)


def largest_weights(cell: Cell, config: BertConfig | EncoderSizes) -> int:
    """An upper bound of the bytes of a cell's trained weights, unless it has very many classes."""
    hidden, wide = config.hidden_size, config.intermediate_size
    width = 10 * hidden + 3 * wide  # inputs and outputs of the linear layers of an encoder layer
    factors = (cell.rank or 0) * (1 if cell.init_lora_weights == DEFAULT else 2)  # first and last
    adapters = 0 if cell.mode in ("full", "head") else width * (1 + factors)  # 1: vectors
    is_whole = trains_encoder(cell.mode, cell.layers) or cell.mode == PEFT  # of any size
    base = count_parameters(config) if is_whole else 0
    if is_whole and cell.engine != MINBERT:  # the gate of a feed-forward layer
        base += config.num_hidden_layers * hidden * wide
    heads = (4 if cell.encoders is None else 20) * hidden**2
    encoders = cell.encoders or 1
    return 4 * (encoders * (config.num_hidden_layers * adapters + base) + heads)  # in fp32


AGAIN: Final = ("export-", "refit-")
"""The beginnings of names of folders in which cells were trained again, for exports."""


class KeptWeights:
    """The kept weights of a CSV's cells, of `every` cell or of those that keep them anyway."""

    def __init__(self, runs: Path, every: bool) -> None:
        self._folder, self._every = cells_folder(runs), every
        self._bytes, self._noted = 0, False
        for path in self._folder.glob(f"*/{WEIGHTS}"):
            if not path.parent.name.startswith(AGAIN):
                self.add(path.parent)

    def keeps(self, cell: Cell) -> bool:
        return self._every or (keeps_by_default(cell) and self._bytes < CAP)

    def add(self, folder: Path) -> None:
        with suppress(OSError):
            self._bytes += (folder / WEIGHTS).stat().st_size

    def note(self, cell: Cell) -> str | None:
        """A line for the first cell that keeps no weights because of the cap."""
        if self._noted or self.keeps(cell) or not keeps_by_default(cell):
            return None
        self._noted = True
        return (
            f"from {cell.name} on no weights are kept: those in {self._folder} take "
            f"{self._bytes / 2**30:.1f} GiB; delete {WEIGHTS} files there, or keep all with "
            "--save-weights"
        )
