"""Pruning: the search for the student's channels, and the cutting of the teacher's weights."""
