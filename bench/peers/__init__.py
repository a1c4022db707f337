"""The same work by transformers + PEFT and by us: `python -m bench.peers`."""
