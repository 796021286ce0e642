"""Commands that use sessions and texts of a server."""
