"""What the server tells of its calls: request ids, a log of calls, metrics."""
