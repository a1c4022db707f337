"""Optuna around the Trainer of transformers: the best of as many trials as the time allows."""

import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sklearn.model_selection import train_test_split
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

train, new, encoder, out = map(Path, sys.argv[1:5])
seed, seconds = map(int, sys.argv[5:])
end = time.monotonic() + 0.85 * seconds
examples, texts = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (train, new))
columns, classes = list(texts.columns), sorted(set(examples["label"]))
tokenizer = AutoTokenizer.from_pretrained(encoder)


def encoded(rows):
    data = dict(tokenizer(*(list(rows[column]) for column in columns), truncation=True))
    if "label" in rows:
        data["labels"] = [classes.index(label) for label in rows["label"]]
    return Dataset.from_dict(data)


class StopInTime(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= time.monotonic() > end


parts = train_test_split(examples, test_size=0.2, random_state=seed, stratify=examples["label"])
training, validation = map(encoded, parts)
best = (-1.0, None, None)


def objective(trial):
    global best
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(classes))
    if trial.suggest_categorical("mode", ["full", "lora"]) == "lora":
        config = LoraConfig(task_type="SEQ_CLS", r=8, target_modules="all-linear")
        model = get_peft_model(model, config)
        rate = trial.suggest_float("lora_rate", 1e-4, 1e-2, log=True)
    else:
        rate = trial.suggest_float("rate", 1e-5, 5e-4, log=True)
    arguments = transformers.TrainingArguments(
        output_dir=str(out / "trials"), seed=seed, save_strategy="no", report_to="none",
        learning_rate=rate, num_train_epochs=trial.suggest_int("epochs", 1, 10),
        per_device_train_batch_size=trial.suggest_categorical("batch", [8, 16, 32, 64]),
        per_device_eval_batch_size=64, use_cpu=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=training, eval_dataset=validation,
        processing_class=tokenizer, callbacks=[StopInTime()],
        compute_metrics=lambda both: {"accuracy": (both[0].argmax(1) == both[1]).mean()},
    )  # fmt: skip
    trainer.train()
    score = trainer.evaluate()["eval_accuracy"]
    best = max(best, (score, trainer, trial.params), key=lambda one: one[0])
    return score


study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
study.optimize(objective, timeout=max(end - time.monotonic(), 0))
_, trainer, parameters = best
trainer.save_model(str(out / "model"))
numbers = trainer.predict(encoded(texts)).predictions.argmax(axis=1)
predicted = [classes[number] for number in numbers]
pd.DataFrame({"prediction": predicted}).to_csv(out / "predictions.csv", index=False)
print(f"{len(study.trials)} trials; {parameters}")
