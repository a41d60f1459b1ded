"""The pipeline: its graph, its recipes and its command line."""
