"""Parity of outputs and task metrics."""
