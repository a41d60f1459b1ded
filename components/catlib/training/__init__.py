"""Training: the loop, its checkpoints, its log, and the artifact that it writes."""
