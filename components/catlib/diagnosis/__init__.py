"""Rules that name the likely cause of a failed training, from what the stages record; they read no files, load no torch."""
