"""Intervals, and step times in a steady state. Pure."""
