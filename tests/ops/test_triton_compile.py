"""Every Triton kernel compiles for GPUs of three generations and keeps its values in registers. Needs no GPU."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ops.triton_compile import ARCHITECTURES, JOBS, compile_all, missing_tools

needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))


@needs_tools
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile_without_spills(arch: int, tmp_path: Path) -> None:
    usages = compile_all(JOBS, (arch,), tmp_path)
    print(*usages, sep="\n")
    assert len(usages) == len(JOBS)
    spilling = [str(usage) for usage in usages if usage.spills]
    assert not spilling, "\n".join(spilling)


@needs_tools
def test_spills_are_seen(tmp_path: Path) -> None:
    """The same check finds the spills of a tile that is too large for one warp."""
    job = next(job for job in JOBS if "stats_finish" in job.fn)
    large = replace(job, constexprs={**job.constexprs, "BLOCK_SPLITS": 64, "BLOCK_C": 64}, num_warps=1)
    (usage,) = compile_all([large], (90,), tmp_path)
    assert usage.spills > 0


@pytest.mark.parametrize("slice_name", ["batch_norm_act", "bce_with_logits"])
def test_every_kernel_has_a_job(slice_name: str) -> None:
    module = f"fastgan.ops.{slice_name}.triton_kernels"
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text()).body
    kernels = {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")}
    missing = kernels - {job.fn.partition(":")[2] for job in JOBS}
    assert kernels and not missing, f"no compile job for {sorted(missing)}"
