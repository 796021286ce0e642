"""Commands that serve: they start a server, load it, or ask how it is."""
