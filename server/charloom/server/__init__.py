"""The server: a runtime around the engine, and the transports that bring calls to it."""
