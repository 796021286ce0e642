"""Observability: request ids, a log of calls, metrics, traces."""
