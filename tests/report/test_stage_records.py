from __future__ import annotations

import pytest

from trtpipe.artifact import IOContract
from trtpipe.errors import InputError
from trtpipe.passes.decisions import NodeDecision
from trtpipe.report.stage_records import ExportRecord, LowerRecord, OutputDifference, SimplifyRecord

EMPTY = IOContract(inputs=(), outputs=())
GAP = OutputDifference(output="y", max_abs=0.5, mean_abs=float("nan"))


@pytest.mark.parametrize(
    "record",
    [
        ExportRecord(exporter="torch", opset=20, nodes=3, weight_bytes=12, contract=EMPTY, notes=("n",)),
        SimplifyRecord(simplified=True, nodes_before=9, nodes_after=4, opset=19, contract=EMPTY),
        LowerRecord(
            precision="int8", opset=19, counts={"int8": 1, "float32": 2},
            nodes=(NodeDecision(node="conv", op="Conv", precision="int8", reason="r"),),
        ),
    ],
)  # fmt: skip
def test_sidecars_survive_their_files(record, tmp_path):
    record.write(tmp_path / "record.json")
    assert type(record).read(tmp_path / "record.json") == record
    other = next(kind for kind in (ExportRecord, LowerRecord) if kind is not type(record))
    with pytest.raises(InputError, match=rf"record\.json: .*{other.__name__}"):
        other.read(tmp_path / "record.json")


def test_differences_that_are_no_numbers_stay_so(tmp_path):
    ExportRecord(exporter="e", opset=1, nodes=0, weight_bytes=0, contract=EMPTY, parity=(GAP,)).write(tmp_path / "f")
    [found] = ExportRecord.read(tmp_path / "f").parity
    assert found.max_abs == 0.5
    assert found.mean_abs != found.mean_abs
