"""Small experiments that show how LSTMs remember, with figures and plots; docs/studies.md has what they showed."""
