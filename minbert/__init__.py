"""A BERT encoder of our own: checkpoints, tokeniser, tasks, batches, training, evaluation."""
