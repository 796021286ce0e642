"""Compiles a regular expression, a list of texts or a JSON schema to an automaton over a model's symbols."""
