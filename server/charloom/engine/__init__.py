"""The engine: text from trained models for many callers at once, and sessions that keep what a text goes on from.

`calls` (what a caller may ask) stands on `sessions` (what is kept), that on `loom` (the continuous-batching scheduler),
and that on `decoding` (the network and how tokens are chosen); each imports those below it and none above. Beside the
loom, `constraints` (what a text may be) and `watching` (what is unusual in logs) stand on `decoding`. The engine knows
no transport. Only the TorchScript decoders import torch, and only where one is asked for.
"""
