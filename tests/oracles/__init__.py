"""Slow and plain: what the fast ways are held against."""
