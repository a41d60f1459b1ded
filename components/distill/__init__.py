"""The distill stage: trains the student."""
