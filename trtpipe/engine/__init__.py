"""What is known of a built engine: its record, its layers, and whether it computes in the lowered precision."""
