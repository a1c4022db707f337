"""Measurements of a cell from inside its process: time, memory, energy, the machine's state."""
