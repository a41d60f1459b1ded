"""The real-stats stage: measures real images."""
