"""What a student learns from inside its teacher, one file per loss; `feature_distillation` chooses among them."""
