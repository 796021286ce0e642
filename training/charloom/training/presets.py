"""Named recipes: settings that were found to work, and what they gave. docs/quality.md has the measurements.

Minutes depend on the processor: in fp32, without AVX-512, they are about twice those with bf16.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "shakespeare": {
        "cell": "layer-norm",
        "layers": 1,
        "hidden_size": 768,
        "dropout": 0.45,
        "weight_decay": 0.1,
        "cold_start": 0.03,
        "batch_size": 32,
        "sequence_length": 64,
        "learning_rate": 4e-3,
        "epochs": 12,
    },
    "quick": {
        "hidden_size": 256,
        "embedding_size": 64,
        "dropout": 0.1,
        "batch_size": 32,
        "sequence_length": 64,
        "learning_rate": 5e-3,
        "epochs": 4,
    },
    "log": {
        "unit": "byte",
        "mask": "numbers",
        "layers": 1,
        "hidden_size": 128,
        "embedding_size": 32,
        "dropout": 0.1,
        "cold_start": 0.1,
        "batch_size": 16,
        "sequence_length": 64,
        "learning_rate": 5e-3,
        "epochs": 12,
        "precision": "fp32",
    },
    "tiny": {
        "hidden_size": 128,
        "embedding_size": 64,
        "dropout": 0.0,
        "batch_size": 32,
        "sequence_length": 64,
        "learning_rate": 5e-3,
        "epochs": 8,
    },
}
"""Settings that differ from the defaults, by name."""
