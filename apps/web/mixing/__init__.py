"""The parts of the Mix page: what is mixed, its form, the live variant, and saving it."""
