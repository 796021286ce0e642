"""Showing and keeping what a run tells of itself: terminal, TensorBoard, a page, advice."""
