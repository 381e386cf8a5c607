"""Engines as their builders describe them: what is in them, what they cost, whether they are what was asked for."""
