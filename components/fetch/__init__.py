"""The fetch stage: an artifact of an earlier run."""
