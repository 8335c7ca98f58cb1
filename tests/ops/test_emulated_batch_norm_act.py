"""The CUDA kernels of batch norm + activation in the emulator (tests/cuda_emulator), in every form that a GPU may give
them: the tests of the compiled batch norm, that no order of the threads makes a difference, and the bytes they move."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fastgan
from fastgan import dispatch
from fastgan.ops.batch_norm_act import native_launch
from fastgan.ops.common.activation import Activation
from tests.cuda_emulator import Emulator, KernelError, planted, reason
from tests.cuda_emulator.batch_norm_act import FORMS, MOST, PASSES, Kernels, passes
from tests.cuda_emulator.conftest import emulated, kinds  # noqa: F401
from tests.ops import test_native_batch_norm_act as compiled
from tests.ops.test_native_batch_norm_act import (  # noqa: F401
    test_a_constant_channel,
    test_a_gradient_in_another_layout_is_copied,
    test_a_large_mean,
    test_dtypes_and_ranks,
    test_images_of_different_levels,
    test_nan_stays_in_its_channel,
    test_outliers_among_the_elements_that_are_looked_at_first,
    test_special_numbers_in_every_lane,
    test_the_steps_of_the_synchronised_form,
)

pytestmark = [
    pytest.mark.skipif(reason() is not None, reason=str(reason())),
    pytest.mark.skipif(native_launch.reason(torch.zeros(1, 1)) is not None, reason="no native cpu module"),
    pytest.mark.xdist_group("cuda_emulator"),
]

#: What runs with sanitizers too, ten times slower: every kernel, form and dtype, and the tails of vectors.
SANITIZED = (
    "test_around_the_tails_of_vectors",
    "test_no_order_of_the_threads_makes_a_difference",
    "test_the_steps_of_the_synchronised_form",
    "test_where_tensors_begin",
)


@pytest.fixture(params=FORMS)
def isa(request: pytest.FixtureRequest) -> str:
    """In the imported tests' place of an instruction set: the form."""
    return str(request.param)


@pytest.fixture(autouse=True)
def kernels(
    emulated: Emulator,  # noqa: F811
    kinds: bool,  # noqa: F811
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Kernels]:
    """The native backend of every step is the emulated one."""
    if kinds and request.node.originalname not in SANITIZED:
        pytest.skip("with sanitizers fewer tests are run")
    form = request.getfixturevalue("isa") if "isa" in request.fixturenames else "clusters"
    running = Kernels(emulated, form)
    for step in compiled.OPS:
        row = dispatch._table[f"batch_norm_act_{step}"]

        def run(*args: Any, step: str = step) -> Any:
            if args[0].numel() == 0:
                pytest.fail("an empty tensor is never launched")
            if step.startswith("backward"):
                args = (torch.empty_like(args[1]).copy_(args[0]), *args[1:])
            return getattr(running, step)(*args)

        monkeypatch.setitem(row, "native", dataclasses.replace(row["native"], run=run))
    with fastgan.dispatch.trace() as calls:
        yield running
    assert all(backend == "native" for _, backend in calls), calls


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("shape", [(5, 1, 31), (5, 3, 32), (5, 17, 49), (5, 33, 4), (5, 65, 1), (70, 9, 16)], ids=str)
def test_around_the_tails_of_vectors(shape, channels_last, isa):
    for activation, training, dtype in itertools.product(("relu", "leaky_relu"), (True, False), (0, 1)):
        data = compiled.tensors(shape, (torch.float32, torch.bfloat16)[dtype], channels_last)
        compiled.check(data, activation, training)


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (40, 20, 4, 4), (9, 5, 7, 7), (100, 9, 8, 8)], ids=str)
def test_no_order_of_the_threads_makes_a_difference(kernels, shape, channels_last, isa):
    data = compiled.tensors(shape, torch.float32, channels_last)
    results = []
    for kernels.seed in range(4):
        results.append([compiled.run(compiled.ours("relu"), *data, training) for training in (True, False)])
    for other in results[1:]:
        for mine, same in zip(itertools.chain(*results[0]), itertools.chain(*other), strict=True):
            assert torch.equal(mine, same)
    assert isa == "blocks" or {seen.cluster > 0 for seen in kernels.seen} >= {isa == "clusters"}
    if shape[0] == 100 and channels_last:
        assert any(seen.parts > 1 for seen in kernels.seen) or isa == "blocks"


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("form", PASSES)
def test_bytes_of_memory(kernels, kinds, form, channels_last):  # noqa: F811
    """At most 1.05 times 2 S and 3 S where a cluster, or a block, holds a group of channels; 3 S and 5 S elsewhere."""
    if kinds:
        pytest.skip("the count is the same with sanitizers")
    kernels.form = form
    _, moved = passes(kernels, channels_last)
    for seen, least, found in zip(kernels.seen, PASSES[form], moved, strict=True):
        assert (seen.cluster > 0) == (form != "two passes") and seen.vector == 8
        assert least - 0.01 < found <= MOST * least, seen


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize(("skipped", "vector"), [(0, 8), (1, 1), (2, 1), (4, 4), (8, 8)])
def test_where_tensors_begin(kernels, skipped, vector, channels_last):
    """No load or store is wider than its address allows."""
    kernels.skipped = skipped
    compiled.check(compiled.tensors((3, 8, 4, 4), torch.bfloat16, channels_last), "leaky_relu")
    assert {seen.vector for seen in kernels.seen} == {vector}


GROUP, PARTIALS, WALK = "batch_norm_act/group.cuh", "common/partials.cuh", "batch_norm_act/walk.cuh"
KERNEL = "batch_norm_act/kernel.cuh"
#: Errors that a kernel could have: (file, what is there, what is there instead).
PLANTED = {
    "a missing barrier of the block": (PARTIALS, "  __syncthreads();\n  for", "  for"),
    "a missing barrier of the cluster": (PARTIALS, "  cluster_barrier();\n  for", "  for"),
    "a missing barrier before a block ends": (PARTIALS, "  cluster_barrier();  // nobody", "  // nobody"),
    "a part that the last block leaves out": (PARTIALS, "i = 1; i < blocks", "i = 2; i < blocks"),
    "a ticket too early": (PARTIALS, "*came_before + 1 !=", "*came_before + 2 !="),
    "lanes that are not merged": (PARTIALS, "kWarp / 2; lanes", "kWarp / 4; lanes"),
    "an item too few": (WALK, ") - item;", ") - item - 1;"),
    "planes one after the other": (WALK, "at_ += (channels_ - 1) * inner_;", "at_ += channels_ * inner_;"),
    "numbers never written": (
        KERNEL,
        "  K::finish(o, s, group, cluster",
        "  if (!part) K::finish(o, s, group, cluster",
    ),
    "running statistics by every block": (KERNEL, "s, group, cluster, part == 0", "s, group, cluster, true"),
    "a channel beyond the last": (GROUP, "group, i) < walk.channels", "group, i) >= 0"),
}


def test_nothing_is_found_where_nothing_is_planted(emulated, kernels):  # noqa: F811
    assert not any(_is_wrong(emulated, form, seed) for form in FORMS for seed in range(6))


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name: str, kinds: bool, tmp_path: Path) -> None:  # noqa: F811
    """By another result in some order of the threads, or by the emulator itself."""
    if kinds:
        pytest.skip("the result gives it away, so the sanitizers are not needed")
    with planted("batch_norm_act", PLANTED[name], tmp_path) as running:
        assert any(_is_wrong(running, form, seed) for form in FORMS for seed in range(6))


def _is_wrong(running: Emulator, form: str, seed: int) -> bool:
    kernels, end = Kernels(running, form, seed), (Activation.LEAKY_RELU, 0.2)
    for channels_last in (False, True):
        x, weight, bias, grad, *buffers = compiled.tensors((150, 20, 3, 4), torch.float64, channels_last)
        judged = [buffer.clone() for buffer in buffers]
        try:
            mine = kernels.train(x, weight, bias, *buffers, 0.3, 1e-5, *end)
            gradients = kernels.backward(grad, x, weight, bias, *mine[1:], True, *end)
        except KernelError:
            return True
        theirs = compiled.reference.train(x, weight, bias, *judged, 0.3, 1e-5, *end)
        expected = compiled.reference.backward(grad, x, weight, bias, *theirs[1:], True, *end)
        pairs = zip((*mine, *gradients, *buffers), (*theirs, *expected, *judged), strict=True)
        if not all(torch.allclose(one, other) for one, other in pairs):
            return True
    return False
