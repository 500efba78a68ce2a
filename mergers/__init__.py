"""Tensor mathematics of merging, one method a file."""
