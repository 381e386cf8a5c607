"""Data sources: reading, preprocessing, batching and checking samples."""
