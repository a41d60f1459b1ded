"""Losses that compare a student's features with its teacher's, one per file; `feature_distillation` chooses one."""
