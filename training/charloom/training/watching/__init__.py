"""Showing and keeping what a run reports: terminal, TensorBoard, a page, warnings with advice."""
