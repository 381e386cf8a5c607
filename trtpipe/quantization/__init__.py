"""8-bit lowering: the quantization plan, Q/DQ pairs, corrections, the fake-quantization simulator, searches."""
