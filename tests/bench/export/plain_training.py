"""Runs the train.py of each folder named on the command line, and predicts dev with what it saved.

Started as a script of its own, without this project: it imports plain libraries alone.
"""

import gc
import json
import runpy
import sys
from pathlib import Path
from typing import Any

PROJECT = ("adapters", "bench", "minbert", "tests")


def main() -> None:
    """Train in every folder, and write losses.jsonl into it; where the script stops, stopped.txt;
    and logits.npy where there are dev examples."""
    sys.modules.update(dict.fromkeys(PROJECT))  # can't be imported
    for folder in map(Path, sys.argv[1:]):
        files = [("--to", "trained"), ("--losses", "losses.jsonl")]
        files += [("--base", "base")] if (folder / "base").exists() else []
        flags = [word for flag, name in files for word in (flag, str(folder / name))]
        sys.argv = ["train.py", str(folder / "train.jsonl"), *flags]
        try:
            script = runpy.run_path(str(folder / "train.py"), run_name="__main__")
        except SystemExit as stopped:
            (folder / "stopped.txt").write_text(str(stopped))
            continue
        if (folder / "dev.jsonl").is_file():
            predict(folder, script["PooledClassifier"])
        gc.freeze()  # the Trainer collects garbage, which takes long after so many imports


def predict(folder: Path, pooled: Any) -> None:
    """Write the logits of the dev examples."""
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    trained = folder / "trained"
    config = AutoConfig.from_pretrained(trained)
    is_plain = (config.pooling, config.head) == ("pooler", "linear")
    kind = BertForSequenceClassification if is_plain else pooled
    if (trained / "adapter_config.json").is_file():
        base = kind.from_pretrained(folder / "base", config=config, ignore_mismatched_sizes=True)
        model = PeftModel.from_pretrained(base, trained)
    else:
        model = kind.from_pretrained(trained)
    rows = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    columns = [[row[name] for row in rows] for name in ("a", "b") if name in rows[0]]
    length = json.loads((folder / "training.json").read_text())["max_length"]
    inputs = AutoTokenizer.from_pretrained(trained)(
        *columns, padding=True, truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.inference_mode():
        np.save(folder / "logits.npy", model.eval()(**inputs).logits.numpy())


if __name__ == "__main__":
    main()
