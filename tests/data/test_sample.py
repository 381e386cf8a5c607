from __future__ import annotations

import numpy as np

from trtpipe.data.sample import RowContents, Sample, content_digests

X = np.arange(24, dtype=np.float32).reshape(6, 4)
LABELS = np.arange(6)


def split(*sizes: int) -> list[Sample]:
    ends = np.cumsum(sizes)
    return [Sample({"x": X[e - s : e]}, LABELS[e - s : e]) for s, e in zip(sizes, ends, strict=True)]


class TestRows:
    def test_counts_the_first_axis_of_the_first_input_that_has_one(self) -> None:
        assert Sample({"scale": np.float32(2) * np.ones(()), "x": X}).rows == 6

    def test_a_feed_of_single_numbers_is_one_row(self) -> None:
        assert Sample({"scale": np.ones(())}).rows == 1


class TestContentDigest:
    def test_does_not_depend_on_the_batch_size(self) -> None:
        assert len({content_digests(split(*sizes)) for sizes in [(6,), (1, 5), (2, 2, 2), (1,) * 6]}) == 1

    def test_depends_on_everything_the_model_sees(self) -> None:
        changed = X.copy()
        changed[5, 3] += 1
        variants = [
            Sample({"x": X}, LABELS),
            Sample({"x": X}),
            Sample({"x": X}, LABELS[::-1]),
            Sample({"y": X}, LABELS),
            Sample({"x": X[::-1]}, LABELS),
            Sample({"x": X.astype(np.float64)}, LABELS),
            Sample({"x": X.reshape(6, 2, 2)}, LABELS),
            Sample({"x": changed}, LABELS),
            Sample({"x": X[:5]}, LABELS[:5]),
        ]
        assert len({content_digests([variant]) for variant in variants}) == len(variants)

    def test_an_input_without_batch_axis_counts_too(self) -> None:
        digests = {content_digests([Sample({"x": X, "scale": np.array(value)})]) for value in (1.0, 2.0)}
        assert len(digests) == 2


class TestRowContents:
    def of(self, *samples: Sample) -> RowContents:
        found = RowContents()
        for sample in samples:
            found.add(sample)
        return found

    def test_neither_order_nor_batches_count(self) -> None:
        order = np.array([3, 0, 5, 1, 4, 2])
        whole, mixed = self.of(*split(6)), self.of(*(Sample({"x": X[i : i + 1]}, LABELS[i : i + 1]) for i in order))
        assert (whole.inputs, whole.labels) == (mixed.inputs, mixed.labels)

    def test_labels_are_those_of_their_rows(self) -> None:
        plain, swapped = self.of(Sample({"x": X}, LABELS)), self.of(Sample({"x": X}, LABELS[::-1]))
        assert plain.inputs == swapped.inputs
        assert plain.labels != swapped.labels

    def test_inputs_that_differ(self) -> None:
        changed = X.copy()
        changed[5, 3] += 1
        variants = [
            self.of(Sample(feed)).inputs
            for feed in ({"x": X}, {"y": X}, {"x": changed}, {"x": X[:5]}, {"x": X.astype(np.float64)})
        ]
        assert len(set(variants)) == len(variants)

    def test_without_labels(self) -> None:
        assert self.of(Sample({"x": X})).labels == ""
        assert self.of().labels == ""
