"""The examples of cells: the user's own data read and checked, and token ids for workers."""
