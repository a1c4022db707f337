"""Comparison with transformers + PEFT on the same work: `python -m bench.peers`."""
