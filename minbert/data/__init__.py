"""Tasks, the tokenizer, batches, and metrics."""
