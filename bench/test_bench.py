"""``pytest bench``: every case through pytest-benchmark, torch and fastgan as two entries of one group.

A wrong result fails before anything is timed. Ratios are better taken from ``python -m bench run``, which interleaves.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.case import BATCH, QUICK_BATCH, Case, Results, Setting, keep, settings
from bench.cases import CASES
from bench.harness import run_and_check

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _setting_id(setting: Setting) -> str:
    layout = "NHWC" if setting.channels_last else "NCHW"
    return f"{str(setting.dtype).removeprefix('torch.')}-{layout}-{setting.batch}"


BATCHES = (BATCH if DEVICE.type == "cuda" else QUICK_BATCH,)
RUNS = [(case, setting) for case in CASES for setting in settings(case, DEVICE, BATCHES)]


@pytest.mark.parametrize("who", ["torch", "fastgan"])
@pytest.mark.parametrize(
    ("case", "setting"), RUNS, ids=[f"{case.id}, {_setting_id(setting)}" for case, setting in RUNS]
)
def test_case(case: Case, setting: Setting, who: str, benchmark: Any) -> None:
    work = case.setup(setting)
    calls = {"torch": work.torch(keep), "fastgan": work.fastgan()}
    run_and_check(work, calls["fastgan"], calls["torch"])
    call = calls[who]

    def run() -> Results:
        results = call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return results

    benchmark.group = f"{case.id}, {_setting_id(setting)}"
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
