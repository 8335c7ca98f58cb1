"""The compiled modules: how they load, and what the C++ sources may include. The rest: tests/ops/test_native_*.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.nn import _reduction

from fastgan import native as native_module
from fastgan.native import build_info, native_reason
from fastgan.ops.common.activation import Activation

CSRC = Path(__file__).parent.parent / "csrc"

needs_native = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
needs_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="the C++ sources are not here")


def test_reasons_are_sentences():
    assert native_reason("mps") == "there are no native kernels for mps tensors"
    for device in ("cpu", "cuda"):
        reason = native_reason(device)
        assert build_info()[f"native_{device}"] == (reason or "loaded")
        assert reason is None or len(reason) > 10


@needs_native
def test_modules_may_share_a_schema_but_not_disagree():
    """The CPU and the CUDA module bring the same schemas, in either order; modules of two builds must not mix."""
    from fastgan import _native_cpu

    native_module._define(_native_cpu.SCHEMAS)
    with pytest.raises(RuntimeError, match="bce_with_logits has another schema"):
        native_module._define("bce_with_logits(Tensor input) -> Tensor")
    torch.ops.fastgan_native.bce_with_logits(torch.zeros(3), None, 0.0, 0, True)


@needs_native
def test_the_instruction_set_can_only_be_lowered(isa):
    assert torch.ops.fastgan_native.cpu_isa() == {"portable": 0, "avx2": 1, "avx512": 2}[isa]
    for wrong in (-1, 3):
        with pytest.raises(RuntimeError, match=r"^set_cpu_isa: isa must be 0"):
            torch.ops.fastgan_native.set_cpu_isa(wrong)


@needs_sources
def test_reduction_enum_is_torchs():
    text = (CSRC / "common/reduction.h").read_text()
    ours = {name: int(value) for name, value in re.findall(r"(none|mean|sum) = (\d)", text)}
    assert ours == {name: _reduction.get_enum(name) for name in ours}
    assert set(ours) == {"none", "mean", "sum"}


@needs_sources
def test_the_activations_have_the_same_numbers_in_cpp():
    text = re.search(r"enum class Activation.*?\{(.*?)\}", (CSRC / "common/activation.h").read_text(), re.DOTALL)
    numbers = {name.upper(): int(number) for name, number in re.findall(r"(\w+) = (\d+)", text.group(1))}
    assert numbers == {member.name: member.value for member in Activation}


@needs_sources
def test_only_the_stable_abi_is_included():
    files = [path for path in CSRC.rglob("*") if path.suffix in (".cpp", ".cu", ".cuh", ".h", ".inc")]
    assert files
    for path in files:
        for header in re.findall(r"^\s*#\s*include\s*[<\"]([^>\"]+)", path.read_text(), re.MULTILINE):
            if header.partition("/")[0].lower() in ("aten", "c10", "torch"):
                assert header.startswith(("torch/csrc/stable/", "torch/headeronly/")), f"{path}: {header}"
                assert path.suffix != ".cuh", f"{path} is device code and includes {header}"


@needs_sources
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cuda_sources_compile_without_warnings(tmp_path):
    """For sm_80, sm_90 and sm_100; neither a GPU nor a CUDA build of torch is needed. No register is spilled, and
    where a thread takes 16 bytes the machine code loads and stores them at once."""
    nvcc = pytest.importorskip("bench.nvcc", reason="the benchmarks are not here")
    if nvcc.reason() is not None:
        pytest.skip(nvcc.reason())
    rows = nvcc.audit((80, 90, 100), extra=nvcc.STRICT)
    for source in CSRC.glob("*/kernel.cu"):
        assert sum(row.kernel.startswith(source.parent.name) for row in rows) >= 3 * 3
    assert [row for row in rows if row.spills or row.stack] == []
    wide = [row for row in rows if row.kernel.startswith("batch_norm_act") and row.form.startswith("vector 8")]
    for arch in (80, 90, 100):
        assert sum(row.arch == arch for row in wide) == 24  # six kernels, two dtypes, two layouts
    assert [row for row in wide if row.load < 16] == []
    assert [row for row in wide if row.store < 16 and "moments" not in row.kernel] == []
