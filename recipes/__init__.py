"""One file is one kind of run, readable from top to bottom."""
