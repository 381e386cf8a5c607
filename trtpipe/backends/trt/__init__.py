"""What the TensorRT flavors share; each function receives the ``trt`` module as an argument."""
