"""The continuous-batching scheduler."""
