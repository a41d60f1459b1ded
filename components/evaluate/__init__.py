"""The evaluate stage: measures the student."""
