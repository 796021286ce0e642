"""The `charloom` command. It may use every other part; no part uses it."""


class CommandError(Exception):
    """A command cannot go on; its message is for the person at the terminal."""
