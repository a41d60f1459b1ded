"""The stages of the pipeline and the library that they share."""
