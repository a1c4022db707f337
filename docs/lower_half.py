"""A second, smaller encoder: the lower three of minilm's six layers, as a checkpoint.

Example: python docs/lower_half.py lower-half
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

from bench.plan.models import find_model

LAYERS = 3


def main(folder: Path) -> None:
    """Write the checkpoint to a folder that is not there yet."""
    source = find_model("minilm", "pretrained", "auto").checkpoint
    if source is None:
        sys.exit("minilm has no checkpoint")
    shutil.copytree(source, folder)
    above = tuple(f"encoder.layer.{layer}." for layer in range(LAYERS, 6))
    weights = load_file(source / "model.safetensors")
    lower = {name: of for name, of in weights.items() if not name.startswith(above)}
    save_file(lower, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    changed = {**config, "num_hidden_layers": LAYERS}
    (folder / "config.json").write_text(json.dumps(changed, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
