"""Measuring latency."""
