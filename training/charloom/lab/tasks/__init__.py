"""Two more systems of LSTMs, besides the language model: texts into labels, and sequences into sequences."""
