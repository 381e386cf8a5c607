"""Each Protocol and the classes that satisfy it: mypy checks these assignments in ``make lint``, nothing runs them.

Add a new class to the tuple of its Protocol; tests/test_protocols.py fails for a Protocol without one. A class that
derives from its Protocol has to be instantiated, here or in the package: only then mypy finds a missing method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtpipe.accuracy.custom import CustomMeter
    from trtpipe.accuracy.detection import MeanAveragePrecision
    from trtpipe.accuracy.meter import Meter
    from trtpipe.accuracy.metrics import Cosine, TopK, WordErrorRate
    from trtpipe.accuracy.parity import OutputRecorder, Samples
    from trtpipe.accuracy.recording import Recording
    from trtpipe.backends.base import Backend, OpenRunner
    from trtpipe.backends.inference import Session
    from trtpipe.backends.null import Null, NullRunner
    from trtpipe.backends.onnxruntime import OnnxRunner, OnnxRuntime, opened_here
    from trtpipe.backends.tensorrt import TensorRT
    from trtpipe.backends.tensorrt_rtx import TensorRTRTX
    from trtpipe.backends.timing import DeviceRunner, Timer
    from trtpipe.backends.torch_tensorrt import TorchTensorRT
    from trtpipe.backends.trt.runner import EngineRunner
    from trtpipe.backends.trt.session import EngineSession
    from trtpipe.backends.trt.timer import EngineTimer
    from trtpipe.calibration.statistics_arrays import StatisticsReducer
    from trtpipe.config.authenticity import Mac, Seal, UserKey
    from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Pt2Source, Source
    from trtpipe.data.batching import BatchedDataset
    from trtpipe.data.function import FunctionDataset
    from trtpipe.data.sample import Dataset
    from trtpipe.data.synthetic import RandomDataset
    from trtpipe.delivery.encryption import Identities
    from trtpipe.delivery.keys import FileKey, PrivateKey, _TokenKey
    from trtpipe.delivery.reader import Decrypts
    from trtpipe.farm.local import LocalWorkers
    from trtpipe.farm.ray_cluster import RayWorkers
    from trtpipe.farm.workers import Workers
    from trtpipe.isolation.reducer import LocalReduction, Reducer, Reduction, Runner
    from trtpipe.isolation.remote_runner import ModelOpener, OpenModel, RemoteRunner, _RemoteReduction
    from trtpipe.latency.measuring import HostTimer
    from trtpipe.pipeline.pipeline import STAGES
    from trtpipe.progress import NullProgress, Progress, StoppableProgress
    from trtpipe.remote.bucket import Bucket
    from trtpipe.remote.folder import FolderBucket
    from trtpipe.remote.objects import ObjectBucket
    from trtpipe.runtime.cpu import GraphSession
    from trtpipe.stages.calibrate import Calibrate
    from trtpipe.stages.compile import Compile
    from trtpipe.stages.evaluate import Evaluate
    from trtpipe.stages.export import Export
    from trtpipe.stages.lower import Lower
    from trtpipe.stages.observe import Observe
    from trtpipe.stages.observe_shards import ObserveFromShards, ObserveShard
    from trtpipe.stages.sensitivity import MeasureSensitivity
    from trtpipe.stages.simplify import Simplify
    from trtpipe.stages.stage import Noting, Stage
    from trtpipe.views.live import RichProgress

    backends: tuple[Backend, ...] = (Null(), OnnxRuntime(), TensorRT(), TensorRTRTX(), TorchTensorRT())
    runners: tuple[type[Runner], ...] = (RemoteRunner, EngineRunner, NullRunner, OnnxRunner)
    open_runners: tuple[type[OpenRunner], ...] = (RemoteRunner, EngineRunner, NullRunner, OnnxRunner)
    open_models: tuple[type[OpenModel], ...] = (OnnxRunner,)
    model_openers: tuple[ModelOpener, ...] = (opened_here,)
    device_runners: tuple[type[DeviceRunner], ...] = (EngineRunner,)
    timers: tuple[type[Timer], ...] = (EngineTimer, HostTimer)
    reducers: tuple[type[Reducer], ...] = (StatisticsReducer,)
    reductions: tuple[type[Reduction], ...] = (LocalReduction, _RemoteReduction)
    datasets: tuple[type[Dataset], ...] = (FunctionDataset, RandomDataset, BatchedDataset)
    samples: tuple[type[Samples], ...] = (FunctionDataset, RandomDataset, BatchedDataset)
    meters: tuple[type[Meter], ...] = (Cosine, CustomMeter, MeanAveragePrecision, TopK, WordErrorRate)
    listeners: tuple[type[Progress], ...] = (NullProgress, StoppableProgress, RichProgress)
    decrypting: tuple[type[Decrypts], ...] = (Identities,)
    private_keys: tuple[type[PrivateKey], ...] = (FileKey, _TokenKey)
    stages: tuple[Stage[Any], ...] = (
        *(*STAGES, Evaluate("model"), MeasureSensitivity(), ObserveShard(0, 1)),
        ObserveFromShards(()),
    )
    buckets: tuple[type[Bucket], ...] = (FolderBucket, ObjectBucket)
    workers: tuple[type[Workers], ...] = (LocalWorkers, RayWorkers)
    sources: tuple[type[Source], ...] = (FactorySource, ModuleSource, OnnxSource, Pt2Source)
    noting: tuple[type[Noting], ...] = (Calibrate, Compile, Export, Lower, Observe, Simplify)
    sessions: tuple[type[Session], ...] = (EngineSession, GraphSession)
    seals: tuple[type[Seal], ...] = (Mac, UserKey)
    recorders: tuple[type[OutputRecorder], ...] = (Recording,)
