"""The continuous-batching scheduler, and the models that each have one."""
