"""Running a graph on the CPU as TensorRT would: emulated storage, runnable artifacts, reference outputs."""
