"""Whether a checkpoint's folder can be loaded: `python -m minbert.check FOLDER`.

A process of its own, so that who asks need not import torch.
"""

import subprocess
import sys
from pathlib import Path

from minbert.errors import InputError


def check_checkpoint(folder: Path) -> None:
    """Read a checkpoint's configuration, vocabulary and weights in another process.

    Raises:
        InputError: what loading it would raise.
    """
    argv = [sys.executable, "-m", "minbert.check", str(folder)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    lines = result.stderr.strip().splitlines() or [f"{folder}: can't be loaded"]
    raise InputError(lines[-1].removeprefix("error: "))


def main(folder: Path) -> int:
    """Load the checkpoint and forget it; the exit code."""
    from minbert.checkpoint import load_encoder
    from minbert.config import BertConfig
    from minbert.encoder import BertEncoder
    from minbert.tokenizer import Tokenizer

    try:
        Tokenizer.from_folder(folder)
        load_encoder(BertEncoder(BertConfig.from_folder(folder), pooler=True), folder)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{folder}: can be loaded\n")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m minbert.check FOLDER")
    sys.exit(main(Path(sys.argv[1])))
