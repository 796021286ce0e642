"""The blocking surface."""
