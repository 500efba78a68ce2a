"""Reports of evaluations in the app: which folders there are, and one of them as a part of a page."""
