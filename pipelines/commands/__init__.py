"""The commands of `python -m pipelines`, by what they reach."""
