"""Rendered pictures and voices: the data the shipped base and the demo are made from."""
