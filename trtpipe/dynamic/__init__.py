"""Dynamic shapes: what a graph does at given sizes, and which sizes a model needs."""
