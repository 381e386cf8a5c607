"""The report in a real browser: nothing overflows, no word is broken in a heading, every chart has its marks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import conv_net, save

import trtpipe
from trtpipe.backends.timing import DeviceState
from trtpipe.latency.measuring import advice
from trtpipe.latency.reports import Latency, LatencyReport
from trtpipe.latency.statistics import spread, times, windows
from trtpipe.regression.bundle import read_build
from trtpipe.views.page import page

pytest.importorskip("tensorrt_rtx")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

#: A name that no line is wide enough for.
LONG = "/".join(["backbone_with_a_long_name"] * 12)

#: What does not fit into the window, apart from what scrolls by itself.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth, wide = [];
  for (const each of document.body.querySelectorAll('*')) {
    const scrolls = each.closest('.wide') || each.closest('svg');
    if (!scrolls && each.getBoundingClientRect().right > width + 1) wide.push(each.tagName + '.' + each.className);
  }
  return [...new Set(wide)];
}"""
#: Figures without a mark that can be seen.
EMPTY = """() => [...document.querySelectorAll('figure')].filter(figure => {
  const marks = [...figure.querySelectorAll('[data-mark]')];
  return !marks.some(mark => { const box = mark.getBoundingClientRect(); return box.width > 0 && box.height > 0; });
}).map(figure => figure.className)"""
#: Headers of tables on more than one line, and words of headings that are broken although a line would hold them.
BROKEN = """() => {
  const broken = [];
  for (const each of document.querySelectorAll('h2, th, .cards span')) {
    const walker = document.createTreeWalker(each, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      for (const match of node.data.matchAll(/(?<![^\\s(])[\\w.]{2,16}(?![^\\s,;:)])/g)) {
        const range = document.createRange();
        range.setStart(node, match.index); range.setEnd(node, match.index + match[0].length);
        if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) broken.push(match[0]);
      }
    }
  }
  return broken;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    network = conv_net()
    network.graph.node[0].name = LONG
    save(network, folder / "m.onnx")
    np.savez(folder / "d.npz", x=np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32))
    common: dict[str, Any] = {"calib_data": folder / "d.npz", "shapes": {"x": (1, 3, 8, 8)}, "targets": ["sm89"]}
    trtpipe.build(folder / "m.onnx", folder / "int8", precision="int8", **common)
    trtpipe.build(folder / "m.onnx", folder / "fp16", precision="fp16", **common)
    found, before = read_build(folder / "int8"), read_build(folder / "fp16")
    latency = LatencyReport(machine={"cpu": "a CPU", "cores": 2}, measurements=(measured("x"), measured(LONG)))
    out = folder / "report.html"
    drawn = page(replace(found, latency=latency), plots=True, against=before, images=str(folder / "d.npz"))
    out.write_text(drawn, encoding="utf-8")
    return out


def measured(name: str) -> Latency:
    """As an engine on a GPU is measured, whose clock falls in the meantime."""
    seconds = np.linspace(1e-3, 1.2e-3, 400)
    warm = DeviceState(name="a GPU", sm_mhz=1980, max_sm_mhz=1980, temperature=41, processes=1)
    found = Latency(
        **times(seconds).to_dict(), artifact="engine:sm89", runner="a GPU", on_gpu=True, shapes={name: (1, 3, 8, 8)},
        warmup_seconds=0.2, iterations=400, throughput_qps=900.0, windows=windows(seconds),
        spread=spread(windows(seconds)), parts={"gpu_compute": times(seconds), "enqueue": times(seconds)},
        before=warm, after=warm.model_copy(update={"sm_mhz": 1410, "throttled": ("SW thermal slowdown",)}),
    )  # fmt: skip
    return found.model_copy(update={"notes": advice(found)})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_geometry(browser: Any, report: Path, width: int, scheme: str) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(report.as_uri())
    tab.evaluate("() => document.querySelectorAll('details').forEach(each => each.open = true)")
    assert tab.evaluate(OVERFLOW) == []
    assert tab.evaluate(EMPTY) == []
    assert tab.evaluate(BROKEN) == []
    text = tab.inner_text("body")
    assert text.count("Medians over time") == text.count("SM clock, of 1980 MHz") == text.count("Distribution") == 2
    assert len(tab.query_selector_all("figure.engine")) == 3, "the engine, and that of both builds side by side"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    tab.close()
