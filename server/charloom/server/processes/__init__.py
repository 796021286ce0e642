"""A server of several processes: a parent that computes nothing, and children that take calls on the same ports."""
