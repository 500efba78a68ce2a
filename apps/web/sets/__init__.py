"""Question sets in the app: a visitor's way through one, and what its page shows."""
