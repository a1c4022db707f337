"""One worker process: checked before, started, watched, and ended with all it started."""
