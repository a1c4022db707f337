"""The parts of a training step that cost, each with a backward pass written by hand."""
