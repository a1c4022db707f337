"""The BERT encoder, its heads, and its checkpoints."""
