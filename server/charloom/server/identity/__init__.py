"""Who calls, and what they may do; the same for every transport."""
