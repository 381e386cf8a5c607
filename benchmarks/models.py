"""Models of known size for benchmarks, with seeded random weights: speed and memory are real, answers are not.

python benchmarks/models.py resnet50 OUT.onnx
python benchmarks/models.py minilm   OUT.onnx
    python benchmarks/models.py dense3g  OUT.onnx     # 3 GB of float32 weights, as external data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = 18


class Graph:
    """Collects nodes and weights; large weights go straight to an external data file, so memory stays small."""

    def __init__(self, path: Path, *, external: bool) -> None:
        self.path = path
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)
        self._data = (path.parent / f"{path.name}.data").open("wb") if external else None

    def weight(self, name: str, shape: tuple[int, ...], spread: float) -> str:
        array = (self._random.standard_normal(shape, dtype=np.float32) * spread).astype(np.float32)
        if self._data is None or array.nbytes < 1024:
            self.weights.append(onnx.numpy_helper.from_array(array, name))
            return name
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        offset = self._data.tell()
        self._data.write(array.tobytes())
        entries = {"location": Path(self._data.name).name, "offset": str(offset), "length": str(array.nbytes)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        self.weights.append(tensor)
        return name

    def add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", **attributes))
        return name

    def save(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        graph = helper.make_graph(self.nodes, "benchmark", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        if self._data is not None:
            self._data.close()
        self.path.write_bytes(model.SerializeToString(deterministic=True))


def resnet50(path: Path) -> None:
    """ResNet-50's layers (He et al. 2015): 25.6 M parameters, 102 MB, input ``image`` [batch, 3, 224, 224]."""
    g = Graph(path, external=False)

    def conv(x: str, name: str, cin: int, cout: int, kernel: int, stride: int = 1, *, relu: bool = True) -> str:
        w = g.weight(f"{name}_w", (cout, cin, kernel, kernel), (2 / (cin * kernel * kernel)) ** 0.5)
        b = g.weight(f"{name}_b", (cout,), 0.01)
        pad = kernel // 2
        y = g.add("Conv", [x, w, b], name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
        return g.add("Relu", [y], f"{name}_relu") if relu else y

    x = conv("image", "stem", 3, 64, 7, 2)
    x = g.add("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for stage, (mid, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            name, stride = f"s{stage}b{block}", 2 if block == 0 and stage else 1
            skip = conv(x, f"{name}_skip", width, mid * 4, 1, stride, relu=False) if block == 0 else x
            y = conv(x, f"{name}_1", width, mid, 1)
            y = conv(y, f"{name}_2", mid, mid, 3, stride)
            y = conv(y, f"{name}_3", mid, mid * 4, 1, relu=False)
            x = g.add("Relu", [g.add("Add", [y, skip], f"{name}_sum")], f"{name}_out")
            width = mid * 4
    x = g.add("Flatten", [g.add("GlobalAveragePool", [x], "mean")], "flat")
    w, b = g.weight("fc_w", (1000, 2048), 0.02), g.weight("fc_b", (1000,), 0.01)
    g.add("Gemm", [x, w, b], "logits", transB=1)
    g.save(
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
    )


def dense3g(path: Path) -> None:
    """48 residual pairs of 2048 x 4096 matrices: 3.2 GB of float32 weights beside the file; input x [batch, 2048]."""
    g = Graph(path, external=True)
    x = "x"
    for layer in range(48):
        up = g.weight(f"l{layer}_up", (2048, 4096), 0.02)
        down = g.weight(f"l{layer}_down", (4096, 2048), 0.01)
        y = g.add("Relu", [g.add("MatMul", [x, up], f"l{layer}_h")], f"l{layer}_relu")
        x = g.add("Add", [g.add("MatMul", [y, down], f"l{layer}_d"), x], f"l{layer}_sum")
    g.add("Identity", [x], "y")
    g.save(
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2048])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2048])],
    )


def minilm(path: Path) -> None:
    """A sentence encoder of MiniLM-L6's size: 6 layers, width 384, 12 heads; input ``ids`` int64[batch, length]."""
    encoder(path, width=384, heads=12, layers=6)


def bert_base(path: Path) -> None:
    """An encoder of BERT-base's size: 12 layers, width 768, 12 heads; input ``ids`` int64[batch, length]."""
    encoder(path, width=768, heads=12, layers=12)


def encoder(path: Path, width: int, heads: int, layers: int) -> None:
    """A transformer encoder after Vaswani et al. 2017 with GELU; output ``embedding`` float32[batch, width]."""
    g = Graph(path, external=False)
    shape, axes = np.array([0, 0, heads, width // heads]), np.array([1])
    g.weights += [onnx.numpy_helper.from_array(shape, "split"), onnx.numpy_helper.from_array(axes, "axes")]
    g.weights.append(onnx.numpy_helper.from_array(np.array([0, 0, width]), "join"))
    g.weights.append(onnx.numpy_helper.from_array(np.float32((width // heads) ** 0.5), "root"))

    def dense(x: str, name: str, cin: int, cout: int) -> str:
        y = g.add("MatMul", [x, g.weight(f"{name}_w", (cin, cout), cin**-0.5)], f"{name}_mul")
        return g.add("Add", [y, g.weight(f"{name}_b", (cout,), 0.01)], name)

    def norm(x: str, name: str) -> str:
        return g.add(
            "LayerNormalization", [x, g.weight(f"{name}_g", (width,), 1.0), g.weight(f"{name}_b", (width,), 0.1)], name
        )

    def split(x: str, name: str, perm: list[int]) -> str:
        return g.add("Transpose", [g.add("Reshape", [x, "split"], f"{name}_split")], f"{name}_heads", perm=perm)

    x = norm(g.add("Gather", [g.weight("table", (30522, width), 0.05), "ids"], "embedded"), "norm")
    for layer in range(layers):
        name = f"l{layer}"
        q = split(dense(x, f"{name}_q", width, width), f"{name}_q", [0, 2, 1, 3])
        k = split(dense(x, f"{name}_k", width, width), f"{name}_k", [0, 2, 3, 1])
        v = split(dense(x, f"{name}_v", width, width), f"{name}_v", [0, 2, 1, 3])
        scores = g.add("Div", [g.add("MatMul", [q, k], f"{name}_qk"), "root"], f"{name}_scores")
        mixed = g.add("MatMul", [g.add("Softmax", [scores], f"{name}_p", axis=-1), v], f"{name}_pv")
        mixed = g.add("Transpose", [mixed], f"{name}_back", perm=[0, 2, 1, 3])
        joined = g.add("Reshape", [mixed, "join"], f"{name}_joined")
        x = norm(g.add("Add", [x, dense(joined, f"{name}_o", width, width)], f"{name}_sum"), f"{name}_norm")
        up = dense(x, f"{name}_up", width, 4 * width)
        half = g.add("Erf", [g.add("Div", [up, g.weight(f"{name}_s", (1,), 1.0)], f"{name}_e")], f"{name}_erf")
        up = g.add("Mul", [up, half], f"{name}_gelu")
        x = norm(g.add("Add", [x, dense(up, f"{name}_down", 4 * width, width)], f"{name}_ffn"), f"{name}_out")
    g.add("ReduceMean", [x, "axes"], "embedding", keepdims=0)
    g.save(
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])],
    )


MODELS = {"resnet50": resnet50, "minilm": minilm, "bert_base": bert_base, "dense3g": dense3g}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    MODELS[arguments.model](arguments.out)
    print(arguments.out)
