from __future__ import annotations

import pytest
from faults import runs_of


def test_five_hundred_faults_are_shared_out_and_the_suite_has_one_run() -> None:
    assert [runs_of(0, kills, 0.5) for kills in (1, 20)] == [1, 1]
    # As the tests are marked: kills of a run, share of all.
    marks = [(20, 0.5), (4, 0.3), (2, 0.06), (2, 0.08), (1, 0.03), (1, 0.01), (2, 0.02)]
    assert sum(share for _, share in marks) == pytest.approx(1)
    runs = [runs_of(500, kills, share) for kills, share in marks]
    assert runs == [13, 38, 15, 20, 15, 5, 5]
    assert sum(n * kills for n, (kills, _) in zip(runs, marks, strict=True)) >= 500
