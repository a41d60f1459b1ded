"""The stages of the pipeline and the library that they share."""

__version__ = "0.2.0"
