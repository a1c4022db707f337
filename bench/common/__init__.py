"""What every room uses: errors, messages, files, progress, and the frame of a command."""
