"""AutoGluon's MultiModalPredictor with its defaults, on our encoder."""

import sys
from pathlib import Path

import pandas as pd
from autogluon.multimodal import MultiModalPredictor

train, new, encoder, out = map(Path, sys.argv[1:5])
seed, seconds = map(int, sys.argv[5:])
examples, texts = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (train, new))
kind = "binary" if examples["label"].nunique() == 2 else "multiclass"
predictor = MultiModalPredictor("label", kind, eval_metric="accuracy", path=str(out / "model"))
settings = {
    "model.names": ["hf_text"], "model.hf_text.checkpoint_name": str(encoder), "env.num_gpus": 0,
    "env.num_workers": 0, "env.num_workers_inference": 0,
}  # fmt: skip
predictor.fit(examples, hyperparameters=settings, time_limit=0.75 * seconds, seed=seed)
predicted = predictor.predict(texts)
pd.DataFrame({"prediction": predicted}).to_csv(out / "predictions.csv", index=False)
print(f"{predicted.nunique()} of {examples['label'].nunique()} classes are predicted")
