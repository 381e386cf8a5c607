from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy import detection
from trtpipe.accuracy.detection import MeanAveragePrecision
from trtpipe.errors import InputError

#: Two images: one object of class 0; two of class 1. Rows of class -1 are padding.
LABELS = np.array([[[0, 0, 0, 10, 10], [-1, 0, 0, 0, 0]], [[1, 0, 0, 10, 10], [1, 20, 20, 30, 30]]], np.float32)


def detections(*images):
    """[batch, 3, 6] of x1, y1, x2, y2, score, class; missing boxes have score 0 and no area, far away."""
    rows = [[*image, *([[900, 900, 900, 900, 0.0, 5]] * (3 - len(image)))] for image in images]
    return {"boxes": np.array(rows, np.float32)}


def measured(outputs, labels=LABELS, output=""):
    meter = MeanAveragePrecision(output)
    meter.update(outputs, {}, labels)
    return meter.scores()


PERFECT = ([[0, 0, 10, 10, 0.9, 0]], [[0, 0, 10, 10, 0.8, 1], [20, 20, 30, 30, 0.7, 1]])


def test_all_found_exactly():
    assert measured(detections(*PERFECT)).value == 1


def test_nothing_found():
    assert measured(detections([], [])).value == 0


def test_one_of_two_objects_of_a_class_is_half_of_that_class():
    assert measured(detections(PERFECT[0], PERFECT[1][:1])).value == pytest.approx(
        (1 + 51 / 101) / 2
    )  # of 101 points of recall, 51 are within one half


def test_a_false_alarm_that_is_surer_than_the_truth_costs_precision():
    alarm = [[50, 50, 60, 60, 0.95, 0], *PERFECT[0]]
    assert measured(detections(alarm, PERFECT[1])).value == pytest.approx((0.5 + 1) / 2)


def test_overlap_counts_at_the_thresholds_it_reaches():
    # 8 x 10 of a 10 x 10 object: IoU 0.8, which reaches 0.50 .. 0.80, 7 of the 10 thresholds
    shifted = [[0, 0, 8, 10, 0.9, 0]]
    assert measured(detections(shifted, PERFECT[1])).value == pytest.approx((0.7 + 1) / 2)


def test_the_second_box_on_one_object_is_false():
    twice = [[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 9, 0.95, 0]]
    # the surer one (IoU 0.9) takes the object at 0.50 .. 0.90; at 0.95 it is false, and the exact one follows
    assert measured(detections(twice, PERFECT[1])).value == pytest.approx(((9 * 1 + 0.5) / 10 + 1) / 2)


def test_a_class_number_that_was_rounded_is_still_that_class():
    outputs = detections(*PERFECT)
    outputs["boxes"][..., 5] -= 0.001
    assert measured(outputs).value == 1
    boxes = outputs["boxes"]
    three = {"b": boxes[..., :4], "s": boxes[..., 4], "c": boxes[..., 5]}
    assert measured(three, output="b,s,c").value == 1


def test_batches_make_no_difference():
    outputs = detections(*PERFECT[:1], PERFECT[1][:1])
    meter = MeanAveragePrecision("")
    for row in range(2):
        meter.update({"boxes": outputs["boxes"][row : row + 1]}, {}, LABELS[row : row + 1])
    assert meter.scores().value == measured(outputs).value
    assert meter.scores().arrays()[0].tolist() == pytest.approx([1, 51 / 101])


def test_other_layouts_of_the_same_detections():
    flat = detections(*PERFECT)["boxes"]
    parts = {"b": flat[..., :4], "s": flat[..., 4], "c": flat[..., 5].astype(np.int64)}
    assert measured(parts).value == 1
    assert measured({"x": np.zeros(1), **parts}, output="b, s, c").value == 1
    each = np.zeros((2, 3, 6), np.float32)
    np.put_along_axis(each, parts["c"][..., None], parts["s"][..., None], axis=2)
    assert measured({"b": parts["b"], "s": each}).value == 1


@pytest.mark.parametrize(
    ("outputs", "labels", "complaint"),
    [
        ({"y": np.zeros((2, 3), np.float32)}, LABELS, "no detections that map understands"),
        (detections(*PERFECT), np.zeros(2, np.int64), "needs the objects of each image"),
        (detections(PERFECT[0]), LABELS, "1 images for 2 labels"),
    ],
)
def test_what_does_not_fit(outputs, labels, complaint):
    with pytest.raises(InputError, match=complaint):
        measured(outputs, labels)


def random_case(seed):
    """Detections near some of the objects of 40 images, crowds among them, and labels as ``update`` takes them."""
    generator = np.random.default_rng(seed)
    labels, outputs = np.full((40, 7, 7), -1.0), np.zeros((40, 9, 6))
    for rows, found in zip(labels, outputs, strict=True):
        count = int(generator.integers(0, 7))
        corner = generator.integers(0, 200, (count, 2))
        size = generator.integers(5, 160, (count, 2))
        boxes = np.concatenate([corner, corner + size], axis=1)
        kinds = generator.integers(0, 3, count)
        crowds = generator.random(count) < 0.15
        rows[:count] = np.column_stack([kinds, boxes, crowds, np.prod(size, axis=1) * 0.7])
        for row in range(9):
            if count and generator.random() < 0.8:
                chosen = int(generator.integers(count))
                box = boxes[chosen] + generator.integers(-9, 10, 4)
                kind = kinds[chosen] if generator.random() < 0.9 else generator.integers(3)
            else:
                box, kind = np.array([3, 4, 60, 90]), generator.integers(3)
            box[2:] = np.maximum(box[2:], box[:2] + 1)
            found[row] = [*box, generator.random(), kind]
    return outputs, labels


@pytest.mark.parametrize("seed", range(4))
def test_it_is_cocos_own_evaluation(seed, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    cocoeval = pytest.importorskip("pycocotools.cocoeval", reason="pycocotools is not installed")
    outputs, labels = random_case(seed)
    images = [{"id": i} for i in range(len(labels))]
    true = [
        {"id": 1 + 100 * i + n, "image_id": i, "category_id": int(row[0]), "iscrowd": int(row[5]), "area": row[6],
         "bbox": [row[1], row[2], row[3] - row[1], row[4] - row[2]]}
        for i, rows in enumerate(labels) for n, row in enumerate(rows) if row[0] >= 0
    ]  # fmt: skip
    found = [
        {"image_id": i, "category_id": int(row[5]), "score": row[4],
         "bbox": [row[0], row[1], row[2] - row[0], row[3] - row[1]]}
        for i, rows in enumerate(outputs) for row in rows
    ]  # fmt: skip
    known = coco.COCO()
    known.dataset = {"images": images, "annotations": true, "categories": [{"id": c} for c in range(3)]}
    known.createIndex()
    evaluation = cocoeval.COCOeval(known, known.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    meter = MeanAveragePrecision("")
    meter.update({"boxes": outputs}, {}, labels)
    assert meter.scores().value == pytest.approx(evaluation.stats[0], abs=1e-9)
    for area, place in (("small", 3), ("medium", 4), ("large", 5)):
        wanted = evaluation.stats[place]
        if wanted >= 0:
            assert detection.mean_ap(meter._found, meter._true, area) == pytest.approx(wanted, abs=1e-9), area
