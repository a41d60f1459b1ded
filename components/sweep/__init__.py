"""The plan of a sweep: every combination of a few settings."""
