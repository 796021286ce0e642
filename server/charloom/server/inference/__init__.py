"""The Open Inference Protocol in no transport's terms."""
