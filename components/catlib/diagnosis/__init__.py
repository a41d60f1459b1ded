"""Rules that name the likely cause of a failure, from what the stages record; they read no files and load no torch."""
