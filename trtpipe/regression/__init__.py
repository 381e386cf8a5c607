"""The CI gate: baselines, comparison with them, and statistical significance."""
