"""The teacher stage: trains the large generator."""
