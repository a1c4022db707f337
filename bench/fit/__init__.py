"""The largest batch of each setting that fits into a given memory."""
