"""Pruning: the search for the student's channels, and the cutting of weights."""
