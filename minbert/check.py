"""Check that a checkpoint's folder can be loaded: `python -m minbert.check FOLDER`.

The check is a process of its own, so that its caller does not import torch, and so that a file made
to keep its reader busy can be given up after a time.
"""

import hashlib
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

from minbert.assets.cache import cache_folder
from minbert.errors import InputError
from minbert.files import is_file

PATIENCE_S: Final = 300.0
"""Loading takes seconds, or minutes from a folder on a slow network."""


def check_checkpoint(folder: Path, digest: str) -> None:
    """Read a checkpoint's configuration, vocabulary and weights in another process.

    A checkpoint that this code could load before is not loaded again.

    Args:
        digest: of its files, from `minbert.files.model_digest`.

    Raises:
        InputError: if loading it raises one, or takes longer than `PATIENCE_S`.
    """
    known = _mark(digest)
    if not is_file(known):
        _check(folder)
        with suppress(OSError):
            known.parent.mkdir(parents=True, exist_ok=True)
            known.touch()


def _mark(digest: str) -> Path:
    """The file in the user's cache that exists once a checkpoint could be loaded."""
    key = hashlib.sha256(f"{digest} {version('torch')}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        key.update(path.read_bytes())
    return cache_folder() / "checked" / key.hexdigest()[:32]


def _check(folder: Path) -> None:
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
    """Load the checkpoint, and return the exit code."""
    import torch

    from minbert.data.tokenizer import Tokenizer
    from minbert.model.checkpoint import load_encoder
    from minbert.model.config import BertConfig
    from minbert.model.encoder import BertEncoder

    try:
        Tokenizer.from_folder(folder)
        encoder = BertEncoder(BertConfig.from_folder(folder), pooler=True)
        load_encoder(encoder, folder)
        for name, parameter in encoder.named_parameters():
            if not parameter.is_meta and not torch.isfinite(parameter).all():
                raise InputError(
                    f"{folder}: {name} holds NaN or infinite numbers; download it again"
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
