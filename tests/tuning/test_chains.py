"""What autotune does for chains: layers are timed as a chain and one by one, and run as whichever was the faster."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

import fastgan
from fastgan import dispatch
from fastgan.nn import BatchNormAct2d, Conv2d, ConvTranspose2d, FusedSequential
from fastgan.ops.common import triton_runtime
from fastgan.tuning import timing
from tests.tuning.conftest import fastest, up

LINKS = ("conv_transpose2d_stats", "conv2d_stats")


def network(**options):
    return FusedSequential(
        BatchNormAct2d(3, activation="leaky_relu", negative_slope=0.2),
        ConvTranspose2d(3, 4, 4, stride=2, padding=1),
        BatchNormAct2d(4),
        Conv2d(4, 2, 3, bias=False),
        BatchNormAct2d(2),
        Conv2d(2, 1, 1),
        **options,
    ).double()


def image(batch=5, channels=3):
    """Of float64: small calls of float32 are left to torch, which moves no clock."""
    return torch.randn(batch, channels, 4, 4, dtype=torch.float64)


def links(call):
    """How many links a call runs."""
    with dispatch.trace() as calls:
        call()
    return sum(op in LINKS for op, _ in calls)


def entries():
    (table,) = fastgan.tuning._tables._by_name.values()
    return table.entries


def chains():
    """How many chains have times."""
    return sum(key[0] == "chain" for key in entries())


def step(layers, x):
    return lambda: layers(x).sum().backward()


def decide(clock, faster, op):
    """Let a link be faster than its layers or slower; in forward it is faster."""
    fastest(clock, "triton")
    clock.costs["torch's backward"] = 0.0  # a part of the link's reference
    clock.more |= {op: -0.9, f"{op}_backward": -0.9 if faster else 50.0}


@pytest.fixture(params=[True, False], ids=["chain", "layers"])
def faster(request, clock):
    """Whether the chain is the faster way."""
    for op in LINKS:
        decide(clock, request.param, op)
    return request.param


def test_the_faster_way_is_used_from_then_on(clock, faster):
    layers, x = network(), image()
    expected = 2 if faster else 0
    assert links(step(layers, x)) == 0  # as without a table
    with fastgan.autotune():
        step(layers, x)()
        known = dict(entries())
        assert chains() == 1
        assert links(step(layers, x)) == expected
        step(layers, image(8))()  # of the same class
        assert entries() == known
    assert links(step(layers, x)) == expected
    fastgan.forget_tuning()
    assert links(step(layers, x)) == 0
    fastgan.load_tuning()
    assert links(step(layers, x)) == expected


@pytest.mark.parametrize("faster", [True], indirect=True)
def test_the_chain_runs_by_the_backends_that_were_the_fastest(clock, faster):
    layers, x = network(), image()
    with fastgan.autotune():
        step(layers, x)()
    with dispatch.trace() as calls:
        step(layers, x)()
    names = {name for op, name in calls if "stats" in op}
    assert names == {"triton"} and ("conv2d_stats_backward", "triton") in calls


def test_timing_leaves_no_trace(clock, faster):
    """Outputs, gradients, running statistics and counts are those of one step."""
    ours = network()
    plain, x = copy.deepcopy(ours), image().requires_grad_()
    y = x.detach().clone().requires_grad_()
    with fastgan.autotune(), dispatch.trace() as calls:
        ours(x).square().sum().backward()
    nn.Sequential(*plain)(y).square().sum().backward()
    assert (sum(op in LINKS for op, _ in calls) > 0) is faster
    pairs = [(x.grad, y.grad), *zip(ours.buffers(), plain.buffers(), strict=True)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), plain.parameters(), strict=True)]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted)


def frozen(layers):
    layers[1].weight.requires_grad_(False)
    return layers


def bfloat16(layers):
    return layers.bfloat16()


def without_gradients(work):
    def run():
        with torch.no_grad():
            work()

    return run


def under_autocast(work):
    def run():
        with torch.autocast("cpu", torch.bfloat16):
            work()

    return run


def test_what_makes_a_chain_a_new_one(clock):
    fastest(clock, "triton")
    layers, x = network(), image()

    def forward(layers=layers, x=x):
        return lambda: layers(x)

    def changed(index, **attributes):
        other = copy.deepcopy(layers)
        for name, value in attributes.items():
            setattr(other[index], name, value)
        return forward(other)

    same = [forward(), forward(x=image(8)), forward(copy.deepcopy(layers)), changed(0, negative_slope=0.3)]
    others = [
        forward(x=image(4)),
        forward(x=image().to(memory_format=torch.channels_last)),
        forward(x=image().requires_grad_()),
        forward(frozen(copy.deepcopy(layers))),
        forward(bfloat16(copy.deepcopy(layers)), x.bfloat16()),
        forward(copy.deepcopy(layers).to(memory_format=torch.channels_last)),
        without_gradients(forward()),
        under_autocast(forward()),
        changed(0, activation="relu"),
        changed(1, padding=(2, 1)),
        changed(1, bias=None),
        changed(4, running_mean=None, running_var=None, num_batches_tracked=None),
    ]

    with fastgan.autotune():
        for call in same:
            call()
        assert chains() == 1
        for count, call in enumerate(others, start=2):
            call()
            assert chains() == count, count


def test_each_run_of_layers_has_times_of_its_own(clock):
    """A layer that is in no chain lies between two."""
    for op in LINKS:
        decide(clock, op == "conv_transpose2d_stats", op)
    layers = FusedSequential(
        ConvTranspose2d(3, 4, 3), BatchNormAct2d(4), nn.Dropout2d(0.0), Conv2d(4, 4, 3), BatchNormAct2d(4)
    ).double()
    with fastgan.autotune(), dispatch.trace() as calls:
        layers(image())
    assert [op for op, _ in calls if op in LINKS] == ["conv_transpose2d_stats"]


@pytest.mark.parametrize("first", [None, 3, 2], ids=["no first", "before beside", "dropout first"])
def test_channels_beside_and_a_layer_before(clock, faster, first):
    ahead = {None: None, 3: BatchNormAct2d(3).double(), 2: nn.Dropout2d(0.0)}[first]
    layers = FusedSequential(ConvTranspose2d(4, 4, 3), BatchNormAct2d(4), Conv2d(4, 2, 3), BatchNormAct2d(2)).double()
    x, beside = image(), image(channels=1)
    plain, before = copy.deepcopy(layers), copy.deepcopy(ahead)
    wanted = nn.Sequential(*plain)(torch.cat((x if before is None else before(x), beside), 1))
    with fastgan.autotune():
        found = layers(x, ahead, beside)
        found.sum().backward()
        known = dict(entries())
        layers(image(8), ahead, image(8, 1)).sum().backward()  # of the same class
        assert chains() == 1 and entries() == known
        assert links(lambda: layers(x, ahead, beside)) == (2 if faster else 0)
    torch.testing.assert_close(found, wanted)


def test_a_forced_backend_and_fuse_win(clock, faster):
    layers, x = network(), image()
    with fastgan.autotune():
        layers(x)
        for fuse, backend, count in ((None, "triton", 2), (None, "reference", 0), (False, "triton", 0)):
            layers.fuse = fuse
            with fastgan.use_backend(backend):
                assert links(lambda: layers(x)) == count
        layers.fuse = True
        assert links(lambda: layers(x)) == 2
        layers.fuse = False
        assert links(lambda: layers(x)) == 0


def test_where_triton_cannot_run_no_chain_is_timed(clock, monkeypatch):
    for op in (*LINKS, *(f"{op}_backward" for op in LINKS)):
        row = dispatch._table[op]
        monkeypatch.setitem(dispatch._table, op, {"reference": row["reference"]})
    layers, x = network(), image()
    with fastgan.autotune():
        layers(x)
    assert entries() and not chains()


def test_the_interpreter_is_not_timed_for_chains(clock, monkeypatch):
    monkeypatch.setattr(triton_runtime, "interpreting", lambda: True)
    layers, x = network(), image()
    with fastgan.autotune():
        assert links(lambda: layers(x)) == 0
    assert "triton" not in clock.ran


def profiled(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        call()


def compiled(call):
    torch._dynamo.reset()
    torch.compile(call, backend="aot_eager", fullgraph=True)()


@pytest.mark.parametrize("watched", [profiled, compiled], ids=lambda watched: watched.__name__)
def test_what_is_watched_is_never_timed(clock, monkeypatch, watched):
    fastest(clock, "triton")
    monkeypatch.setattr(timing, "measure", lambda *args: pytest.fail("something was timed"))
    layers, x = network(), image()
    with fastgan.autotune():
        watched(lambda: layers(x))


def test_parameters_that_are_no_leaves(clock, faster):
    layers, x = network(), image()
    values = {name: (p * 1).detach().requires_grad_() * 1 for name, p in layers.named_parameters()}
    with fastgan.autotune():
        found = torch.func.functional_call(layers, values, (x,))
    assert found.requires_grad


def test_a_backward_on_another_thread_may_time_its_ops(clock):
    """As autograd's do for a GPU, while the chain that they are part of is timed."""

    def other_thread():
        thread = threading.Thread(target=up, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()

    with fastgan.autotune():
        dispatch.chain_is_faster((), (image(),), lambda: {"triton": other_thread, "reference": other_thread})
    assert {key[0] for key in entries()} == {"chain", "conv_transpose2d"}


def test_a_damaged_entry_is_none(clock, faster):
    layers, x = network(), image()
    with fastgan.autotune():
        layers(x)
    for key, times in entries().items():
        if key[0] == "chain":
            del times["reference"]
    assert links(lambda: layers(x)) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_chain_on_a_gpu_is_tuned():
    """With real kernels and CUDA's clock: everything is timed in the first step, nothing in the second."""
    layers = network().cuda().bfloat16().to(memory_format=torch.channels_last)
    x = image().cuda().bfloat16().to(memory_format=torch.channels_last)
    with fastgan.autotune():
        step(layers, x)()
        known = dict(entries())
        assert chains() == 1
        step(layers, x)()
        assert entries() == known
