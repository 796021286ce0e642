"""Decides what is unusual about a line of a log: plain numbers in, plain numbers out."""
