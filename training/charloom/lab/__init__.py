"""What serves nothing else: tasks, studies, and LSTMs from first principles."""
