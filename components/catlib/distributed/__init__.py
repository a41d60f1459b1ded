"""Devices, and the processes of one training."""
