"""Rules on the code itself, each with its check."""
