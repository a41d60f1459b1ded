"""The stages of the pipeline and the library that they share."""

__version__ = "0.1.0"
