"""Whether a checkpoint's folder can be loaded: `python -m minbert.check FOLDER`.

A process of its own, so that who asks need not import torch, and that a file made to keep its
reader busy can be given up.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from minbert.errors import InputError

PATIENCE_S: Final = 300.0
"""Loading takes seconds; from a slow network's folder, minutes."""


def check_checkpoint(folder: Path) -> None:
    """Read a checkpoint's configuration, vocabulary and weights in another process.

    Raises:
        InputError: what loading it would raise, or if it takes longer than `PATIENCE_S`.
    """
    argv = [sys.executable, "-m", "minbert.check", str(folder)]
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{folder}: could not be loaded in {PATIENCE_S:g} s") from None
    if result.returncode == 0:
        return
    last = (result.stderr.strip().splitlines() or [f"signal {-result.returncode}"])[-1]
    if result.returncode == 2 and last.startswith("error: "):
        raise InputError(last.removeprefix("error: "))
    raise InputError(f"{folder}: can't be loaded ({last[:200]})")


def main(folder: Path) -> int:
    """Load the checkpoint and forget it; the exit code."""
    import torch

    from minbert.checkpoint import load_encoder
    from minbert.config import BertConfig
    from minbert.encoder import BertEncoder
    from minbert.tokenizer import Tokenizer

    try:
        Tokenizer.from_folder(folder)
        encoder = BertEncoder(BertConfig.from_folder(folder), pooler=True)
        load_encoder(encoder, folder)
        for name, parameter in encoder.named_parameters():
            if not parameter.is_meta and not torch.isfinite(parameter).all():
                raise InputError(
                    f"{folder}: {name} holds NaN or infinite numbers, so nothing can come of it; "
                    "download it again"
                )
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{folder}: can be loaded\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m minbert.check FOLDER")
    sys.exit(main(Path(sys.argv[1])))
