"""Calls that autotune leaves alone: captured, compiled, transformed, watched. There the table is only looked up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastgan
from fastgan import dispatch
from fastgan import functional as FF
from fastgan.tuning import tables, timing
from tests.tuning.conftest import activated, choice, fastest, operands, up


def vmapped():
    weight = torch.ones(4, 2, 4, 4, dtype=torch.bfloat16)
    images = torch.ones(3, 2, 4, 3, 3, dtype=torch.bfloat16)
    torch.vmap(lambda image: FF.conv_transpose2d(image, weight, stride=2, padding=1))(images)


def gradients_of_each():
    weight, images = torch.ones(4, 2, 4, 4, dtype=torch.bfloat16), torch.ones(3, 4, 3, 3, dtype=torch.bfloat16)
    torch.vmap(torch.func.grad(lambda image: FF.conv_transpose2d(image, weight).sum()))(images)


def compiled():
    torch.compile(up, backend="aot_eager", fullgraph=True)()


def compiled_backward():
    torch.compile(activated, backend="aot_eager", fullgraph=True)(*operands()).sum().backward()


def faked():
    with FakeTensorMode():
        up()


def without_data():
    with torch.device("meta"):
        up()


def profiled():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        up()


def of_nothing():
    up(0)


@pytest.mark.parametrize(
    "work",
    [vmapped, gradients_of_each, compiled, compiled_backward, faked, without_data, profiled, of_nothing],
    ids=lambda work: work.__name__,
)
def test_what_is_watched_transformed_or_compiled_is_never_timed(clock, monkeypatch, work):
    monkeypatch.setattr(timing, "measure", lambda *args: pytest.fail("something was timed"))
    with fastgan.autotune():
        work()
    work()


@pytest.mark.parametrize("work", [profiled, compiled], ids=lambda work: work.__name__)
def test_there_the_table_is_looked_up(clock, work):
    fastest(clock, "triton")
    with fastgan.autotune():
        up()
        assert choice(work) == "triton"
    assert choice(work) == "triton"


def test_compiled_code_is_not_compiled_again_for_a_block(clock):
    call = torch.compile(activated, backend="aot_eager", fullgraph=True)
    call(*operands()).sum().backward()
    with torch._dynamo.config.patch(error_on_recompile=True):
        fastgan.load_tuning()
        with fastgan.autotune():
            call(*operands()).sum().backward()


@pytest.mark.parametrize("ask", ["select", "selects"])
def test_a_choice_within_compiled_code_has_no_guard_on_the_tables(clock, ask):
    """Where a compiler traces a backward without a gradient of its own, the choice of backend is part of the graph."""
    arguments = ("conv2d_act_backward",) if ask == "select" else ("triton", "conv2d_act_backward")

    @torch.compile(backend="eager", fullgraph=True)
    def chosen(image):
        return image + 1 if getattr(dispatch, ask)(*arguments, image) else image

    image = torch.ones(2, 4, 3, 3)
    chosen(image)
    with torch._dynamo.config.patch(error_on_recompile=True):
        fastgan.load_tuning()
        chosen(image)


def test_a_cuda_graph_is_captured_without_timing(monkeypatch):
    arguments = (SimpleNamespace(device=torch.device("cuda", 0)),)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not tables._can_be_timed(arguments)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert tables._can_be_timed(arguments)
    assert not tables._can_be_timed((torch.ones(1, device="meta"),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_network_on_a_gpu_is_tuned_and_captured(monkeypatch):
    """With real kernels and CUDA's clock: everything is timed in the first step, nothing in the graph."""
    image, weight = (
        torch.randint(-2, 3, size, device="cuda").float().requires_grad_() for size in ((4, 16, 8, 8), (16, 8, 4, 4))
    )  # small integers: any order of sums gives the same bits

    def step():
        output = FF.conv_transpose2d(image, weight, stride=2, padding=1, activation="relu")
        return torch.autograd.grad(output.square().sum(), (image, weight))

    with fastgan.autotune():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            expected = step()
        torch.cuda.current_stream().wait_stream(side)
        monkeypatch.setattr(timing, "measure", lambda *args: pytest.fail("something was timed"))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, found, expected))
