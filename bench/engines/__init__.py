"""How a cell's model is built and what trains in it: engine minbert, engine transformers."""
