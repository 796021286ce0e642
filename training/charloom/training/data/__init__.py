"""From files of text to the batches of training."""
