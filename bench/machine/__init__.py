"""The machine: its GPUs, its conditions, and the environment of workers."""
