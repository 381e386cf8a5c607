"""What lowering itself takes, statistics given: seconds and memory, on a ResNet-50-sized and a BERT-base-sized model.

    python benchmarks/lowering.py > results/lowering.json

The stages before make what lowering starts from (random data: speed does not depend on it); then it runs alone in a
fresh process for each precision. Memory is the peak of the process above what it took once everything was imported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks_common import machine_line

if TYPE_CHECKING:
    from trtpipe.config.profile import DeploymentProfile

HERE = Path(__file__).parent
#: model -> the option that gives its shapes
MODELS = {"resnet50": "image:1x3x224x224", "bert_base": "ids:1x128"}
PRECISIONS = ("int8", "fp8", "fp16", "bf16")
_BEFORE = ("export", "simplify", "observe", "calibrate")


def one(folder: Path, precision: str, shapes: str) -> dict[str, float]:
    """Lower once, in this process."""
    import onnx_ir.passes.common  # noqa: F401  so that imports are not counted

    import trtpipe
    from trtpipe.config.settings import Settings
    from trtpipe.pipeline.executor import prepared_without_store
    from trtpipe.pipeline.run_state import artifact_from_file
    from trtpipe.progress import NullProgress
    from trtpipe.quantization.qdq import InsertQDQ  # noqa: F401
    from trtpipe.stages.lower import Lower
    from trtpipe.stages.stage import Inputs

    profile, settings = profile_for(precision, shapes), Settings.from_environment()
    job = trtpipe.make_job(folder / "simplified.onnx", profile=profile, settings=settings, progress=NullProgress())
    files = {"simplified": "simplified.onnx", "ranges": "ranges.json", "statistics": "statistics.npz"}
    inputs = Inputs(
        {kind: artifact_from_file(kind, folder / name) for kind, name in files.items() if (folder / name).is_file()}
    )
    with tempfile.TemporaryDirectory() as work:
        held, busy, begin = peak_memory(), time.process_time(), time.perf_counter()
        prepared_without_store(Lower(), job, inputs).run(Path(work), NullProgress())
        seconds, processor, memory = time.perf_counter() - begin, time.process_time() - busy, peak_memory() - held
    size = (folder / "simplified.onnx").stat().st_size
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "memory_mb": round(memory / 1e6),
        "times_the_model": round(memory / size, 2),
    }


def peak_memory() -> int:
    """Bytes this process has held at most; ``getrusage`` would begin with what its parent held when it forked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def prepared(model: Path, precision: str, shapes: str, folder: Path) -> Path:
    """The folder of what lowering to ``precision`` starts from, which is not the same for all (bf16: opset 22)."""
    import trtpipe
    from trtpipe.api.results import BuildResult, run_published
    from trtpipe.config.settings import Settings
    from trtpipe.pipeline.pipeline import stages_named
    from trtpipe.pipeline.publish import publish_folder
    from trtpipe.progress import NullProgress

    out = folder / f"{model.stem}_{precision}"

    def publish(result: BuildResult) -> Path:
        publish_folder(result.artifacts, out)
        return out

    settings = Settings(cache_dir=folder / "cache")
    job = trtpipe.make_job(model, profile=profile_for(precision, shapes), settings=settings, allow_random=True)
    run_published(job, stages_named(*_BEFORE), {}, publish, NullProgress())
    return out


def profile_for(precision: str, shapes: str) -> DeploymentProfile:
    """What to lower to, at one set of shapes."""
    from trtpipe.config.profile import DeploymentProfile, ShapeRange, parse_shapes

    ranges = {name: ShapeRange(min=dims, opt=dims, max=dims) for name, dims in parse_shapes(shapes).items()}
    return DeploymentProfile.model_validate({"precision": precision, "shapes": [ranges], "backend": "null"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "PRECISION", "SHAPES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        folder, precision, shapes = arguments.one
        print(json.dumps(one(Path(folder), precision, shapes)))
        return
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shapes in MODELS.items():
            model = Path(folder, f"{name}.onnx")
            subprocess.run([sys.executable, HERE / "models.py", name, model], check=True, stdout=subprocess.DEVNULL)
            found[name] = {"model_mb": round(model.stat().st_size / 1e6)}
            for precision in PRECISIONS:
                out = prepared(model, precision, shapes, Path(folder))
                child = [sys.executable, __file__, "--one", str(out), precision, shapes]
                found[name][precision] = json.loads(
                    subprocess.run(child, capture_output=True, text=True, check=True).stdout
                )
    print(json.dumps({"machine": machine_line(), "models": found}, indent=1))


if __name__ == "__main__":
    main()
