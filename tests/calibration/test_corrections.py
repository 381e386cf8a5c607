from __future__ import annotations

import numpy as np
import pytest
from models import normal
from pydantic import ValidationError

from trtpipe.calibration.corrections import Corrections, Smoothing, packed, unpacked
from trtpipe.quantization.bias_correction import typical_correction


def test_vectors_come_back_to_the_bit() -> None:
    vector = normal(1000) * np.float32(1e-30)
    corrections = Corrections(smoothing={"x": Smoothing(factors=packed(vector), inserted=True, amax=2.5)})
    back = Corrections.model_validate_json(corrections.to_json())
    assert back == corrections
    assert np.array_equal(unpacked(back.smoothing["x"].factors), vector)


@pytest.mark.parametrize("text", ["no base64!", "AAAA", packed(np.array([np.nan], np.float32))])
def test_what_is_no_vector_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Corrections(biases={"y": text})


class TestTypicalCorrection:
    def test_what_all_feeds_agree_on_is_taken(self) -> None:
        corrections = 2 + 1e-3 * normal(16, 4).astype(np.float64)
        np.testing.assert_allclose(typical_correction(corrections), corrections.mean(axis=0), rtol=1e-6)

    def test_chance_is_not(self) -> None:
        chance = normal(16, 200).astype(np.float64)
        drawn = typical_correction(chance)
        assert np.square(drawn).sum() < 0.5 * np.square(chance.mean(axis=0)).sum()

    def test_feeds_that_did_not_reach_the_node_do_not_count(self) -> None:
        corrections = np.array([[np.nan] * 2, [1.0, -1], [np.nan] * 2, [1, -1]])
        assert typical_correction(corrections).tolist() == [1, -1]
        assert typical_correction(corrections[:2]).tolist() == [0, 0]
