"""Runs the train.py of each folder named on the command line, and predicts dev with what it saved.
A script of its own, which imports plain libraries alone."""

import gc
import json
import runpy
import sys
from pathlib import Path


def main():
    """Train in each folder; it gets losses.jsonl or stopped.txt, and logits.npy of dev."""
    sys.modules.update(dict.fromkeys(("adapters", "bench", "minbert", "tests")))  # no imports
    for folder in map(Path, sys.argv[1:]):
        sys.path.insert(0, str(folder))  # as for python FOLDER/train.py
        [train, *_] = [*folder.glob("train.conll"), folder / "train.jsonl"]
        files = [("--to", "trained"), ("--losses", "losses.jsonl")]
        files += [("--base", "base")] if (folder / "base").exists() else []
        flags = [word for flag, name in files for word in (flag, str(folder / name))]
        sys.argv = ["train.py", str(train), *flags]
        try:
            script = runpy.run_path(str(folder / "train.py"), run_name="__main__")
        except SystemExit as stopped:
            (folder / "stopped.txt").write_text(str(stopped))
            continue
        if (folder / "dev.jsonl").is_file():
            predict(folder, script["PooledClassifier"])
        gc.freeze()  # the Trainer collects garbage, which takes long after so many imports


def predict(folder, pooled):
    """Write the logits of dev: by predict.py or, for the script's own class, here."""
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoTokenizer

    trained, base = folder / "trained", folder / "base"
    rows = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    texts = [
        row["tokens"] if "tokens" in row else (row["a"], row["b"]) if "b" in row else row["a"]
        for row in rows
    ]
    if (folder / "predict.py").is_file():
        snippet = runpy.run_path(str(folder / "predict.py"))
        answers = runpy.run_path(str(folder / "answers.py"))
        predict = answers["predictor"](trained, snippet["logits"], snippet["tokens"])
        logits = predict(snippet["load"](trained, str(base)), texts)
    else:
        has_adapter = (trained / "adapter_config.json").is_file()
        config = AutoConfig.from_pretrained(trained)
        model = pooled.from_pretrained(base if has_adapter else trained, config=config).eval()
        model = PeftModel.from_pretrained(model, trained).eval() if has_adapter else model
        tokenizer = AutoTokenizer.from_pretrained(trained)
        with torch.inference_mode():
            inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            logits = model(**inputs).logits.numpy()
    np.save(folder / "logits.npy", logits)


if __name__ == "__main__":
    main()
