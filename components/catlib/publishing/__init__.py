"""Records finished runs and models for others."""
