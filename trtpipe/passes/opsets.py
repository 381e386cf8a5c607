"""The opset lowering needs. No imports, so that planning a run stays light."""

#: QuantizeLinear and DequantizeLinear of float8 and float16 scales exist since opset 19.
LEAST_OPSET = 19
