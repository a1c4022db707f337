"""SetFit with its defaults, and no more pairs of texts than two cores train on in 12 minutes."""

import sys
from pathlib import Path

import pandas as pd
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

train, new, encoder, out = map(Path, sys.argv[1:5])
examples, texts = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (train, new))
model = SetFitModel.from_pretrained(str(encoder), labels=sorted(set(examples["label"])))
iterations = min(20, max(1, 7500 // len(examples)))  # each has two pairs of every text
arguments = TrainingArguments(
    output_dir=str(out / "training"), seed=int(sys.argv[5]), num_iterations=iterations,
    report_to="none", save_strategy="no",
)  # fmt: skip
joined = examples[list(texts.columns)].agg(" ".join, axis=1)
data = Dataset.from_dict({"text": list(joined), "label": list(examples["label"])})
trainer = Trainer(model, arguments, train_dataset=data)
trainer.train()
model.save_pretrained(str(out / "model"))
predicted = model.predict(list(texts.agg(" ".join, axis=1)))
pd.DataFrame({"prediction": predicted}).to_csv(out / "predictions.csv", index=False)
print(f"{iterations} iterations")
