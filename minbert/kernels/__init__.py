"""The expensive operations of a training step, each with a backward pass written by hand."""
