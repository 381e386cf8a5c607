"""The pipeline: its stages, their execution against a store, and publishing of results."""
