"""Attacks on a server, and what they did to somebody else who uses it."""
