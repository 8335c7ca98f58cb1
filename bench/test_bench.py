"""``pytest bench``: every case through pytest-benchmark, torch and fastgan as two entries of one group.

A wrong result fails before anything is timed. Ratios are better taken from ``python -m bench run``, which interleaves.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.cases import CASES, Case, Results, Setting
from bench.harness import check, settings

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _setting_id(setting: Setting) -> str:
    return f"{str(setting.dtype).removeprefix('torch.')}-{'NHWC' if setting.channels_last else 'NCHW'}"


RUNS = [(case, setting) for case in CASES for setting in settings(case, DEVICE, quick=True)]


@pytest.mark.parametrize("who", ["torch", "fastgan"])
@pytest.mark.parametrize(
    ("case", "setting"), RUNS, ids=[f"{case.id}, {_setting_id(setting)}" for case, setting in RUNS]
)
def test_case(case: Case, setting: Setting, who: str, benchmark: Any) -> None:
    pair = case.setup(setting)
    theirs, ours = pair.torch(), pair.fastgan()
    check(pair, ours, theirs, pair.judge())
    call = getattr(pair, who)

    def run() -> Results:
        results = call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return results

    benchmark.group = f"{case.id}, {_setting_id(setting)}"
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
