from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import model, normal, run
from planning import prepared

from trtpipe.quantization.channel_measures import Channels, measure_maxima

MAPS = ("float[N,4,6] x", "float[N,4,6] y"), Channels(4, 3), (0, 2)
ROWS = ("float[N,5,4] x", "float[N,5,4] y"), Channels(4), (0, 1)


@pytest.mark.parametrize(("interface", "channels", "others"), [MAPS, ROWS])
def test_the_largest_magnitude_of_every_channel(interface, channels, others) -> None:  # type: ignore[no-untyped-def]
    given, made = interface
    graph = prepared(model(f"({given}) => ({made}) {{ a = Tanh(x) y = Neg(a) }}"))
    names = measure_maxima(graph, {"a": channels})
    x = normal(3, *((4, 6) if channels.rank else (5, 4)), seed=1)
    found = run(ir.serde.serialize_model(graph), {"x": x})[names["a"]]
    expected = np.abs(np.tanh(x)).max(axis=others)
    np.testing.assert_allclose(found.reshape(-1, 4).max(axis=0), expected, rtol=1e-6)
    assert found.size == (12 if channels.rank else 4), "a few numbers, whatever the size"
