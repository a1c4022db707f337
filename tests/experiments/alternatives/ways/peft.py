"""LoRA as in PEFT's example of sequence classification, with its defaults, on the same encoder."""

import sys
import time
from itertools import chain, repeat
from pathlib import Path

import pandas as pd
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

train, new, encoder, out = map(Path, sys.argv[1:5])
seed, seconds = map(int, sys.argv[5:])
end = time.monotonic() + 0.85 * seconds
transformers.set_seed(seed)
examples, texts = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (train, new))
columns, classes = list(texts.columns), sorted(set(examples["label"]))
tokenizer = AutoTokenizer.from_pretrained(encoder)


def collate(rows):
    parts = [[row[column] for row in rows] for column in columns]
    batch = tokenizer(*parts, truncation=True, padding=True, return_tensors="pt")
    if "label" in rows[0]:
        batch["labels"] = torch.tensor([classes.index(row["label"]) for row in rows])
    return batch


model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(classes))
model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.1))
loader = DataLoader(examples.to_dict("records"), 32, shuffle=True, collate_fn=collate)
optimizer, steps = torch.optim.AdamW(model.parameters(), lr=3e-4), 20 * len(loader)
schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)
model.train()
for batch in chain.from_iterable(repeat(loader, 20)):
    model(**batch).loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if time.monotonic() > end:
        break
model.eval()
model.save_pretrained(out / "model")
tokenizer.save_pretrained(out / "model")
predicted = []
with torch.inference_mode():
    for batch in DataLoader(texts.to_dict("records"), 32, collate_fn=collate):
        predicted += [classes[i] for i in model(**batch).logits.argmax(dim=1)]
pd.DataFrame({"prediction": predicted}).to_csv(out / "predictions.csv", index=False)
print(f"{schedule.last_epoch} of {steps} steps")
