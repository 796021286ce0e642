"""Sessions as values: what they are, who writes them, how they are stored and sealed."""
