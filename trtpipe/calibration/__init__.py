"""From data to statistics to ranges."""
