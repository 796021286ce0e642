"""Experiments beside training and serving: tasks, studies, and LSTMs from first principles."""
