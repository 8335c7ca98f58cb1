"""The compiled loss against the float64 formula, and what the C++ sources may include."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn import _reduction

from fastgan import native as native_module
from fastgan.native import build_info, native_reason
from tests.checks import DTYPES, assert_rule

CSRC = Path(__file__).parent.parent / "csrc"
REDUCTIONS = ("none", "mean", "sum")
CODE = {name: _reduction.get_enum(name) for name in REDUCTIONS}

needs_native = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
needs_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="the C++ sources are not here")


def native(input, target=None, target_value=0.0, reduction="none", need_grad=True):
    return torch.ops.fastgan_native.bce_with_logits(input, target, target_value, CODE[reduction], need_grad)


def judge(input, target, reduction):
    """Loss and unscaled gradient in float64, from the definition."""
    x, t = input.double(), target.double()
    loss = (1 - t) * x + (-x).clamp_min(0) + torch.log1p(torch.exp(-x.abs()))
    reduced = {"none": lambda v: v, "mean": torch.mean, "sum": torch.sum}[reduction](loss)
    return reduced, torch.sigmoid(x) - t


def check(input, target, reduction):
    loss, grad = native(input, target, reduction=reduction)
    expected_loss, expected_grad = judge(input, target, reduction)
    torch_loss = F.binary_cross_entropy_with_logits(input, target, reduction=reduction)
    assert_rule("loss", loss, torch_loss, expected_loss)
    assert_rule("grad", grad, torch.sigmoid(input) - target, expected_grad)
    assert loss.device == grad.device == input.device


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (1023,), (1025,), (2, 1, 64, 64), (65537,)], ids=str)
def test_loss_and_gradient(dtype, reduction, shape):
    input = (torch.randn(shape, dtype=torch.float64) * 4).to(dtype)
    check(input, torch.rand(shape, dtype=torch.float64).to(dtype), reduction)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_magnitude(dtype):
    """From one to the underflow of exp(-|x|) and on to the largest number, both signs and both zeros."""
    magnitudes = torch.cat(
        [torch.linspace(0, 120, 20001), torch.tensor([1e3, 1e4, 3e38]), torch.logspace(-40, 0, 2000)]
    )
    x = torch.cat([magnitudes, -magnitudes]).to(dtype)
    x = x[x.isfinite()]
    for target_value in (0.0, 1.0, 0.25):
        for value in (x, x[x.abs() < 20], x[x.abs() < 1e-2]):
            check(value, torch.full_like(value, target_value), "none")


@needs_native
def test_small_losses_keep_their_relative_accuracy():
    """A confident and right discriminator: the loss is about exp(-|x|), which 1 + exp(-|x|) would lose."""
    for x in torch.linspace(10, 80, 1000).split(20):  # within a piece the losses are of one size
        check(x, torch.ones_like(x), "none")


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target_value", [0.0, 1.0, 0.9, 1 / 3])
def test_number_as_target_is_the_filled_tensor(dtype, target_value):
    input = torch.randn(3000).to(dtype)
    for reduction in REDUCTIONS:
        ours = native(input, None, target_value, reduction)
        filled = native(input, torch.full_like(input, target_value), reduction=reduction)
        assert all(torch.equal(a, b) for a, b in zip(ours, filled, strict=True))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(dtype):
    input = torch.empty(0, 3, dtype=dtype)
    loss, grad = native(input)
    assert loss.shape == grad.shape == (0, 3)
    assert math.isnan(native(input, reduction="mean")[0])
    assert native(input, reduction="sum")[0].item() == 0


@needs_native
def test_gradient_not_wanted():
    for reduction in REDUCTIONS:
        input = torch.randn(2000)
        loss, grad = native(input, reduction=reduction, need_grad=False)
        assert grad.shape == (0,)
        assert torch.equal(loss, native(input, reduction=reduction)[0])


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinities_and_nan_as_torch(dtype):
    values = [math.inf, -math.inf, math.nan, 0.0, -0.0, 2.0]
    pairs = list(itertools.product(values, [0.0, 1.0, 0.5, math.nan]))
    input, target = (torch.tensor(column, dtype=dtype) for column in zip(*pairs, strict=True))
    leaf = input.clone().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(leaf, target, reduction="none")
    expected.sum().backward()
    # Repeated, so that both the vectorised loop and its remainder see every pair.
    loss, grad = native(input.repeat(5)[: 5 * len(pairs) - 3], target.repeat(5)[: 5 * len(pairs) - 3])
    for ours, theirs in ((loss, expected.detach()), (grad, leaf.grad)):
        theirs = theirs.repeat(5)[: len(ours)]
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.isinf(), theirs.isinf())
        assert torch.equal(ours[theirs.isinf()], theirs[theirs.isinf()])


@needs_native
def test_one_nan_is_seen_in_the_sum():
    input = torch.zeros(5000)
    input[4321] = math.nan
    loss, grad = native(input, reduction="mean")
    assert math.isnan(loss)
    assert grad.isnan().nonzero().flatten().tolist() == [4321]


@needs_native
def test_sums_of_a_million_halves():
    input = torch.full((1_000_000,), -8.0, dtype=torch.float16)
    check(input, torch.zeros_like(input), "mean")
    check(input, torch.zeros_like(input), "sum")
    assert native(input, target_value=1.0, reduction="sum")[0].item() == math.inf  # 8 million, beyond float16


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_do_not_change_a_bit(dtype):
    input, target = torch.randn(300_001).to(dtype), torch.rand(300_001).to(dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            results.append([native(input, target, reduction=reduction) for reduction in REDUCTIONS])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_native
@pytest.mark.parametrize(
    ("input", "target", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), None, "input must be float64"),
        (torch.zeros(3, dtype=torch.complex64), None, "input must be float64"),
        (torch.zeros(3, 4).t(), None, "input must be contiguous"),
        (torch.zeros(3, 4), torch.zeros(4, 3).t(), "target must be contiguous"),
        (
            torch.zeros(3),
            torch.zeros(3, dtype=torch.float64),
            r"target must have the dtype of input \(Float\), got Double",
        ),
        (torch.zeros(3), torch.zeros(1), "target must have the shape of input"),
    ],
)
def test_errors_name_the_argument(input, target, message):
    with pytest.raises(RuntimeError, match=f"^bce_with_logits: {message}"):
        native(input, target)


@needs_native
def test_unknown_reduction():
    with pytest.raises(RuntimeError, match="reduction must be"):
        torch.ops.fastgan_native.bce_with_logits(torch.zeros(3), None, 0.0, 3, True)


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
    native(torch.zeros(3))


@needs_sources
def test_reduction_enum_is_torchs():
    text = (CSRC / "common/reduction.h").read_text()
    ours = {name: int(value) for name, value in re.findall(r"(none|mean|sum) = (\d)", text)}
    assert ours == CODE


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
def test_cuda_sources_compile_without_warnings(tmp_path):
    """For sm_80, sm_90 and sm_100; neither a GPU nor a CUDA build of torch is needed."""
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH or in /usr/local/cuda")
    from torch.utils.cpp_extension import include_paths

    command = [nvcc, "-c", "-std=c++20", "-O3", f"-I{CSRC}", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    command += [flag for path in include_paths() for flag in ("-isystem", path)]
    command += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror", "--Werror", "all-warnings"]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90, 100)]
    for source in sorted(CSRC.glob("*/kernel.cu")):
        output = tmp_path / f"{source.parent.name}.o"
        result = subprocess.run([*command, str(source), "-o", str(output)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
