"""The services of `charloom.v1`, a module each: every method is translation around one call of the engine."""
