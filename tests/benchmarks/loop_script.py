"""LoRA by transformers and PEFT in a plain loop on task movies; prints the score on dev:
`python -m tests.benchmarks.loop_script MODEL STEPS BATCH_SIZE`"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
)

from minbert.data.tasks import load_task


def main(checkpoint, steps, size):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    data = load_task("movies", max_train=steps * size, max_dev=256)

    def encoded(examples):
        texts = tokenizer(list(examples.text_a), truncation=True, max_length=128)
        columns = {**texts, "labels": examples.labels.tolist()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=5)
    targets = r".*encoder\.layer\.\d+\..*(query|key|value|dense)"
    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=targets)
    model = get_peft_model(model, config)
    collate = DataCollatorWithPadding(tokenizer)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
    model.train()
    batches = DataLoader(encoded(data.train), size, shuffle=True, collate_fn=collate)
    for _, batch in zip(range(steps), batches, strict=False):
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    dev = DataLoader(encoded(data.dev), size, collate_fn=collate)
    with torch.inference_mode():
        logits = torch.cat([model(**batch).logits for batch in dev])
    right = logits.argmax(dim=1) == torch.as_tensor(data.dev.labels)
    print(f"{right.double().mean():.4f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
