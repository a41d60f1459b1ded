"""Faults on purpose: damaged files, stores that fail, processes that are killed. docs/trust.md has the figures."""
