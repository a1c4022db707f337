"""The examples of cells as token ids, shared by all workers of a run."""
