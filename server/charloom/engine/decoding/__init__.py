"""The decoder contract, its implementations, and where the state of live rows is."""
