"""The engine: serves text from trained models to many callers at once, and keeps sessions that texts continue.

The layers, top down: `calls` (the operations that callers ask for), `sessions` (kept states), `loom` (the
continuous-batching scheduler), `decoding` (the network, and choosing tokens); each imports those below it and none
above. Beside the loom, `constraints` (allowed texts) and `watching` (unusual lines of logs) use `decoding`. The engine
knows no transport. Only the TorchScript decoders import torch, and only where one is asked for.
"""
