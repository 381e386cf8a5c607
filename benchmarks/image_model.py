"""A classifier of small images by color, fitted in a second without training, and the images in folders by class.

The regression gate is shown on it: a recipe's mean and labels by folder need images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.parser import parse_model
from PIL import Image

CLASSES = ("amber", "brown", "coral", "denim", "ebony")
SIDE = 16
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_GRAPH = """<ir_version: 10, opset_import: ["": 20]> g (float[N,3,16,16] x) => (float[N,5] y) {
  a = Conv<pads=[1,1,1,1]>(x, first) b = Relu(a) c = Conv(b, second) d = Relu(c) e = Conv<pads=[1,1,1,1]>(d, third)
  f = Relu(e) p = GlobalAveragePool(f) q = Flatten(p) y = Gemm<transB=1>(q, head, bias)
}"""


def write(folder: Path, images: int = 40, seed: int = 0) -> Path:
    """Write ``model.onnx``, ``calib/<class>/*.png`` and ``eval/<class>/*.png`` into ``folder``; returns it."""
    generator = np.random.default_rng(seed)
    colors = 128 + generator.normal(0, 10, (len(CLASSES), 3))
    sets = {part: _images(generator, colors, images) for part in ("fit", "calib", "eval")}
    for part in ("calib", "eval"):
        for number, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for index, pixels in enumerate(sets[part][number]):
                Image.fromarray(pixels).save(folder / part / name / f"{index:03d}.png")
    onnx.save(_fitted(generator, sets["fit"]), folder / "model.onnx")
    return folder


def recipe(folder: Path) -> dict[str, Any]:
    """The recipe for these images, as a dict of its tables."""
    image = {"resize": SIDE, "crop": [SIDE, SIDE], "mean": list(MEAN), "std": list(STD)}
    return {
        "data": {"source": str(folder / "calib"), "batch": 8, "image": dict(image)},
        "evaluation": {"source": str(folder / "eval"), "batch": 8, "metric": "top1", "image": dict(image)},
    }


def _images(generator: np.random.Generator, colors: np.ndarray, count: int) -> np.ndarray:
    noise = generator.normal(0, 60, (len(colors), count, SIDE, SIDE, 3))
    return (colors[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)


def _fitted(generator: np.random.Generator, images: np.ndarray) -> onnx.ModelProto:
    """Random convolutions, and a linear layer fitted to what they give by least squares."""
    model = parse_model(_GRAPH)
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type.lower()}_{index}"
    shapes = {"first": (16, 3, 3, 3), "second": (16, 16, 1, 1), "third": (16, 16, 3, 3)}
    weights = {
        name: (generator.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    weights |= {"head": np.zeros((len(CLASSES), 16), np.float32), "bias": np.zeros(len(CLASSES), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    pixels = images.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2) / np.float32(255)
    features = _features(model, ((pixels - 0.5) / 0.5).astype(np.float32))
    wide = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    wanted = np.repeat(np.eye(len(CLASSES)), images.shape[1], axis=0)
    solved = np.linalg.lstsq(wide, wanted, rcond=None)[0].T.astype(np.float32)
    for tensor in model.graph.initializer:
        if tensor.name in ("head", "bias"):
            value = solved[:, :-1] if tensor.name == "head" else solved[:, -1]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    return model


def _features(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.append(onnx.helper.make_tensor_value_info("q", onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["q"], {"x": inputs})[0])
