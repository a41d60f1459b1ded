"""What keeps finished runs and models for others."""
