"""The operations that callers ask for: checking requests, starting calls, and making results."""
