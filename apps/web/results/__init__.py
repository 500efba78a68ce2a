"""Results in the app: what votes say, kept until they change, as parts of a page and as files."""
