"""The prune stage: chooses the student's channels."""
