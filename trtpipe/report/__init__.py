"""The records of a build, and summaries of its files."""
