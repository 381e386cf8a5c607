"""Graph rewriting over onnx-ir: one pass, one file."""
