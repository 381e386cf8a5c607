"""The stages of the pipeline; each turns artifacts into one artifact."""
