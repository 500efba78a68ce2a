"""Explaining answers on the Compare page: the work beside the rounds, and what is shown of it."""
