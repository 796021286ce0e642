"""Sessions as values: their data, their writers, storing and sealing them."""
