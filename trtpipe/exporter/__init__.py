"""PyTorch and ONNX sources, and simplification."""
