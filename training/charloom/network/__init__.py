"""The network itself: cells, layers, the model; what training, export and the lab all build on."""
