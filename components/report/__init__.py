"""The report stage: puts a run on one page."""
