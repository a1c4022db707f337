"""Faults that the doctor must name, and runs without one in which it must name nothing."""
