"""What measures a cell from inside its process: step times and memory."""
