"""The examples of cells: data of one's own read and checked, and token ids for workers."""
