"""LSTMs from first principles, in NumPy and in torch: what the tests hold the production model against.

They are written to be read and checked by hand, not to be fast. docs/reference-lstms.md has the equations.
"""
