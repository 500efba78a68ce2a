"""Parts of a training loop, never the loop itself."""
