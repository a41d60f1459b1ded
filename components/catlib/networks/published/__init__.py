"""Reads networks and statistics that the reference implementation published; the files are not trusted."""
