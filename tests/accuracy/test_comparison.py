from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy.comparison import ClassAgreement


def test_agreement_counts_the_references_best_class_among_ones_own():
    theirs = np.array([[0, 9, 1, 2, 3, 4, 5], [9, 0, 1, 2, 3, 4, 5]], np.float32)
    mine = np.array([[0, 9, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6]], np.float32)
    found = ClassAgreement()
    found.add(mine, theirs)
    found.add(theirs, theirs)
    assert found.share(found.top1) == 3 / 4
    assert found.share(found.top5) == 3 / 4
    mine[1, 0] = 2.5  # now three are better
    again = ClassAgreement()
    again.add(mine, theirs)
    assert (again.top1, again.top5) == (1, 2)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 3, 4), "f4"), ((3,), "f4"), ((2, 1), "f4"), ((2, 3), "i8")])
def test_other_outputs_say_nothing_of_classes(shape, dtype):
    value = np.zeros(shape, dtype)
    found = ClassAgreement()
    found.add(value, value)
    assert found.share(found.top1) is None


def test_nan_agrees_with_nobody():
    found = ClassAgreement()
    found.add(np.full((1, 3), np.nan, np.float32), np.array([[0, 1, 0]], np.float32))
    assert (found.rows, found.top1, found.top5) == (1, 0, 0)
