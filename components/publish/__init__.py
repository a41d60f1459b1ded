"""The publish stage: adds students as versions to where people fetch models."""
