"""The commands of `triptych`, one a file; see `apps.cli` for what a file holds."""
