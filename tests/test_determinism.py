"""Bit for bit the same: a thousand times over, in deterministic mode, and with one thread or two."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
import torch.utils.deterministic

import fastgan
from fastgan.native import native_reason
from fastgan.ops.common.triton_runtime import interpreting
from tests.checks import assert_rule
from tests.workloads import LARGE, NAMES, SMALL, digest, networks, prepared, step, work

TWO_THREADS = (9, 16, 16)  # just above the size from which torch's elementwise loops are shared
names = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """torch's deterministic mode, in which torch.empty is full of NaN: an output that nobody wrote shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    assert torch.empty(5).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def any_order(backend, monkeypatch) -> None:
    """Where Triton is interpreted its programs run in another order each time, as on a GPU they may."""
    if backend == "triton" and interpreting():
        from triton.runtime import interpreter

        def shuffled(*bounds: int) -> list[int]:
            order = list(range(*bounds))
            if len(bounds) == 1 and type(bounds[0]) is int:  # a grid axis; loops inside kernels count to a tensor
                random.shuffle(order)
            return order

        monkeypatch.setattr(interpreter, "range", shuffled, raising=False)


def assert_repeats(count: int, name: str, size: tuple[int, int, int], device: torch.device) -> None:
    run = prepared(name, size, device=device)
    first = run()
    for _ in range(count - 1):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.slow
@names
def test_a_thousand_repeats(name, backend, device, any_order, request):
    """Fewer in Triton's interpreter, where the programs' order is all that can vary: a convolution takes it 0.3 s.
    cuDNN is deterministic only in deterministic mode."""
    if backend == "reference" and device.type == "cuda":
        request.getfixturevalue("deterministic")
    interpreted = backend == "triton" and interpreting()
    assert_repeats(20 if interpreted else 1000, name, SMALL if interpreted else TWO_THREADS, device)


@pytest.mark.slow
@names
def test_a_hundred_repeats_on_two_threads(name, threads):
    """A hundred, because two threads that wait for each other on busy cores take ten times as long as one."""
    torch.set_num_threads(2)
    with fastgan.use_backend("reference"):
        assert_repeats(100, name, TWO_THREADS, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "repeats"), [(1, 1000), (2, 100)])
@pytest.mark.parametrize("name", ["loss mean", "loss sum", "loss none"])
def test_repeats_of_the_native_loss(name, count, repeats, threads):
    """Its forward, and the backward that goes with it."""
    if native_reason("cpu") is not None:
        pytest.skip(native_reason("cpu"))
    torch.set_num_threads(count)
    with fastgan.dispatch.trace() as calls:
        work(name, TWO_THREADS)
    assert dict(calls)["bce_with_logits"] == "native"
    assert_repeats(repeats, name, TWO_THREADS, torch.device("cpu"))


@names
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_deterministic_mode_changes_no_bit(name, layout, backend, device, request):
    before = digest(work(name, layout=layout, device=device))
    request.getfixturevalue("deterministic")
    assert digest(work(name, layout=layout, device=device)) == before


def test_deterministic_mode_changes_no_bit_of_a_training_step(device, request):
    model = networks(device)
    before = digest([*step(model), *model.buffers()])
    request.getfixturevalue("deterministic")
    model = networks(device)
    assert digest([*step(model), *model.buffers()]) == before


def cut_at_the_threads(name: str, layout: str) -> set[int]:
    """Results that torch adds up in pieces, one per thread, and so are not bit-equal with another number of threads;
    documented in the ops' READMEs."""
    if name in ("conv_transpose2d", "conv2d"):
        return {2}  # the weight gradient, oneDNN's
    if name.startswith("batch_norm_act training") and layout == "nhwc":
        return set(range(6))  # all follow from sums over the rows
    return {0} if name.startswith("loss") and name != "loss none" else set()


@names
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_one_thread_and_two(name, layout, size, threads):
    """The reference on a CPU; tests/ops/test_native_bce_with_logits.py has the native loss, which is bit-equal."""
    ours, theirs = [], []
    with fastgan.use_backend("reference"):
        for count in (1, 2):
            torch.set_num_threads(count)
            ours.append(work(name, size, layout=layout))
            theirs.append(work(name, size, layout=layout, ours=False))
    judge = work(name, size, layout=layout, ours=False, judge=True)
    cut = cut_at_the_threads(name, layout)
    for i, (one, two) in enumerate(zip(*ours, strict=True)):
        if i not in cut:
            assert torch.equal(one, two), f"result {i}"
            continue
        for count, tensor in enumerate((one, two)):
            assert_rule(f"result {i} with {count + 1} threads", tensor, theirs[count][i], judge[i])
