"""The checks, one file each; each runs in a process of its own."""
