"""Mean average precision of boxes, as COCO defines it (Lin et al. 2014; its evaluation server)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.meter import Meter, Scores, select_output
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.artifact import Feed

#: COCO's thresholds of intersection over union.
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
#: COCO's points of recall at which precision is read.
_RECALLS = np.linspace(0, 1, 101)
#: Detections of an image and class that count, the best scores first.
_MOST_FOUND = 100
#: COCO's ranges of an object's area in pixels, both ends included.
AREAS = MappingProxyType(
    {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
)


@dataclass(frozen=True)
class Found:
    """The detections of one image: boxes float64[n,4] (x1, y1, x2, y2), scores float64[n], classes int64[n]."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Objects:
    """The objects of one image: n boxes, classes, crowds and areas.

    Boxes are float64[n,4] (x1, y1, x2, y2), classes int64[n], crowds bool[n], areas float64[n].

    A crowd is a region of many objects: what lies in it counts neither as right nor as wrong.
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray


class MeanAveragePrecision(Meter):
    """COCO's mAP: averaged over IoU 0.50:0.05:0.95 and over the classes that occur in the labels.

    Precision is made monotonic and read at 101 points of recall; of an image and class the 100 best detections count.

    Args:
        output: one output ``[batch, n, 6]`` of x1, y1, x2, y2, score, class; or three names ``boxes,scores,classes``
            of shapes ``[batch, n, 4]``, ``[batch, n]`` and ``[batch, n]``; or two names ``boxes,scores`` of shapes
            ``[batch, n, 4]`` and ``[batch, n, classes]``. Empty for the outputs in the model's order.
    """

    metric = "map"
    chance = 0.0

    def __init__(self, output: str) -> None:
        self._names = tuple(name.strip() for name in output.split(",") if name.strip())
        self._found: list[Found] = []
        self._true: list[Objects] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed.

        Args:
            labels: ``[batch, objects, 5]``: class, x1, y1, x2, y2; rows of class -1 are padding. A sixth number is 1
                for a crowd, a seventh the object's area, where that is not the box's.
        """
        if labels is None or labels.ndim != 3 or labels.shape[2] not in (5, 6, 7):
            raise InputError(
                "map needs the objects of each image",
                "give labels [rows, objects, 5]: class, x1, y1, x2, y2 (then crowd, and area), padded with -1",
            )
        found = _detections([select_output(outputs, name)[1] for name in self._names or tuple(outputs)])
        if len(found) != len(labels):
            raise InputError(f"detections of {len(found)} images for {len(labels)} labels", "check the labels")
        self._found += found
        for row in labels:
            self._true.append(_objects(row[row[:, 0] >= 0].astype(np.float64)))

    def scores(self) -> Scores:
        """The average precision of every image by itself; the metric is that of all of them together."""
        each = [mean_ap([one], [true]) for one, true in zip(self._found, self._true, strict=True)]
        return Scores.of("means", np.array(each), whole=mean_ap(self._found, self._true) if each else None)


def _objects(rows: np.ndarray) -> Objects:
    """float64[objects, 5 to 7] as ``update`` takes them, without padding."""
    boxes = rows[:, 1:5]
    crowds = rows[:, 5] > 0 if rows.shape[1] > 5 else np.zeros(len(rows), bool)
    areas = rows[:, 6] if rows.shape[1] > 6 else np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return Objects(boxes, rows[:, 0].astype(np.int64), crowds, areas)


def _detections(outputs: list[np.ndarray]) -> list[Found]:
    """One Found for each image."""
    shapes = [value.shape for value in outputs]
    if outputs and outputs[0].ndim == 3 and shapes[0][2] == 6:
        return [Found(row[:, :4].astype(np.float64), row[:, 4].astype(np.float64), _whole(row[:, 5]))
                for row in outputs[0]]  # fmt: skip
    if len(outputs) >= 2 and outputs[0].ndim == 3 and shapes[0][2] == 4 and shapes[1][:2] == shapes[0][:2]:
        boxes = outputs[0].astype(np.float64)
        if outputs[1].ndim == 3:
            pairs = zip(boxes, outputs[1].astype(np.float64), strict=True)
            return [Found(each, scores.max(axis=1), scores.argmax(axis=1)) for each, scores in pairs]
        if len(outputs) >= 3 and shapes[2] == shapes[1]:
            scores, classes = outputs[1].astype(np.float64), _whole(outputs[2])
            return [Found(*each) for each in zip(boxes, scores, classes, strict=True)]
    raise InputError(
        f"outputs of shapes {', '.join(str(list(shape)) for shape in shapes)} are no detections that map understands",
        "name them with output = 'boxes,scores,classes' under [evaluation], or give a function as the metric",
    )


def _whole(classes: np.ndarray) -> np.ndarray:
    """Class numbers as int64; in a lowered graph a float 3 may come out as 2.999."""
    found: np.ndarray = np.rint(classes).astype(np.int64)
    return found


def mean_ap(found: list[Found], true: list[Objects], area: str = "all") -> float:
    """Over the classes in ``true`` and all thresholds.

    Without an object that counts it is 1 if nothing was found, else 0.

    Args:
        area: which objects count, by ``AREAS``; detections of other sizes that match none are left out.
    """
    classes = sorted({int(c) for image in true for c in image.classes})
    each = [_average_precisions(found, true, c, AREAS[area]) for c in classes]
    known = [values for values in each if values is not None]
    return float(np.mean(known)) if known else float(not any(len(image.boxes) for image in found))


def _average_precisions(
    found: list[Found], true: list[Objects], which: int, area: tuple[float, float]
) -> np.ndarray | None:
    """float64[thresholds]: of one class; ``None`` where it has no object that counts."""
    scores: list[np.ndarray] = []
    hits: list[np.ndarray] = []
    counted: list[np.ndarray] = []
    objects = 0
    for image, truth in zip(found, true, strict=True):
        mine = np.flatnonzero(image.classes == which)
        mine = mine[np.argsort(-image.scores[mine], kind="stable")][:_MOST_FOUND]
        theirs = truth.classes == which
        ignored = truth.crowds[theirs] | (truth.areas[theirs] < area[0]) | (truth.areas[theirs] > area[1])
        boxes = image.boxes[mine]
        hit, taken = _matched(boxes, truth.boxes[theirs], truth.crowds[theirs], ignored)
        size = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        objects += int((~ignored).sum())
        scores.append(image.scores[mine])
        hits.append(hit)
        counted.append(hit | ~(taken | (size < area[0]) | (size > area[1])))
    if not objects:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.concatenate(hits, axis=1)[:, order].cumsum(axis=1)
    judged = np.concatenate(counted, axis=1)[:, order].cumsum(axis=1)
    return np.array([_at_recalls(*pair, objects) for pair in zip(right, judged, strict=True)])


def _at_recalls(right: np.ndarray, judged: np.ndarray, objects: int) -> float:
    """Mean precision at COCO's points of recall.

    Args:
        right, judged: of the detections so far, best scores first: those that are right, and those that count.
    """
    if not len(right):
        return 0.0
    precision = right / np.maximum(judged, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, _RECALLS, side="left")
    return float(np.append(envelope, 0.0)[np.minimum(places, len(envelope))].mean())


def _matched(
    boxes: np.ndarray, objects: np.ndarray, crowds: np.ndarray, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """bool[thresholds, boxes], twice: whether each box, best scores first, takes an object that counts; or one that
    does not, where no free one that counts overlaps enough. A crowd can be taken any number of times.
    """
    overlaps = _iou(boxes, objects, crowds)
    hit, taken = (np.zeros((len(_THRESHOLDS), len(boxes)), bool) for _ in range(2))
    for row, threshold in enumerate(_THRESHOLDS):
        free = np.ones(len(objects), bool)
        for box in range(len(boxes)):
            enough = (free | crowds) & (overlaps[box] >= min(threshold, 1 - 1e-10))
            for kind, marked in ((enough & ~ignored, hit), (enough & ignored, taken)):
                if kind.any():
                    best = np.where(kind, overlaps[box], -1.0)
                    place = len(best) - 1 - int(best[::-1].argmax())  # of equal overlaps COCO takes the last
                    free[place] = False
                    marked[row, box] = True
                    break
    return hit, taken


def _iou(a: np.ndarray, b: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """float64[a, b]: intersection over union of every two boxes; over the area of ``a`` alone for a crowd in ``b``."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(corner[1] - corner[0], 0, None), axis=2)
    areas = [np.prod(np.clip(box[:, 2:] - box[:, :2], 0, None), axis=1) for box in (a, b)]
    union = np.where(crowds[None], areas[0][:, None], areas[0][:, None] + areas[1][None] - shared)
    result: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result
