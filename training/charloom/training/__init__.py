"""Training: from a text file to a checkpoint, and from a checkpoint to a bundle. Needs torch."""
