"""Peak memory and time of a cell, predicted before it runs."""
