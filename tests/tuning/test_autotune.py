"""What autotune times, when, and what is chosen because of it."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan import dispatch
from fastgan import functional as FF
from fastgan.native import native_reason
from fastgan.ops.common import triton_runtime
from fastgan.ops.conv_transpose2d import small
from fastgan.tuning import timing
from tests.tuning.conftest import OPS, choice, fastest, operands, up

BACKENDS = ("native", "triton", "reference")


@pytest.mark.parametrize("name", BACKENDS)
def test_the_fastest_is_used_from_then_on(clock, name):
    fastest(clock, name)
    assert choice(up) == "native"  # as without a table
    with fastgan.autotune():
        assert choice(up) == name
    assert choice(up) == name
    fastgan.forget_tuning()
    assert choice(up) == "native"
    fastgan.load_tuning()
    assert not clock.timed(up)
    assert choice(up) == name


def test_the_result_is_the_call_s(clock):
    expected = up()
    with fastgan.autotune():
        assert torch.equal(up(), expected)


def test_times_are_those_of_one_call(clock):
    with fastgan.autotune():
        up()
    (times,) = (entry for table in fastgan.tuning._tables._by_name.values() for entry in table.entries.values())
    assert times == {name: clock.costs[name] for name in BACKENDS}


def test_one_outlier_changes_nothing(clock):
    fastest(clock, "triton")
    row, calls = dispatch._table["conv_transpose2d"], itertools.count()
    real = row["triton"].run

    def late(*args):
        clock.now += 1000.0 if next(calls) == 6 else 0.0
        return real(*args)

    row["triton"] = dataclasses.replace(row["triton"], run=late)
    with fastgan.autotune():
        assert choice(up) == "triton"


def test_who_is_hopeless_is_asked_no_more_than_that_takes(clock):
    clock.costs["native"] = 1000.0
    with fastgan.autotune():
        up()
    assert clock.ran.count("native") == 4 < clock.ran.count("triton")


def test_a_known_call_is_not_timed_again(clock):
    with fastgan.autotune():
        assert clock.timed(up)
        assert not clock.timed(up)
    with fastgan.autotune():
        assert not clock.timed(up)
    fastgan.forget_tuning()
    with fastgan.autotune():  # as a later process would
        assert not clock.timed(up)


def test_what_makes_a_call_a_new_one(clock):
    image, weight = (torch.ones(size, dtype=torch.bfloat16) for size in ((6, 4, 5, 5), (4, 2, 3, 3)))
    wide = torch.ones(6, 8, 5, 5, dtype=torch.bfloat16)

    def call(image=image, weight=weight, bias=None, **options):
        return lambda: FF.conv_transpose2d(image, weight, bias, **{"stride": 2, **options})

    same = [call(), call(image[:5]), call(image.repeat(2, 1, 1, 1)[:8]), call(image * 3)]
    others = [
        call(image[:4]),
        call(image.repeat(2, 1, 1, 1)[:9]),
        call(image.float(), weight.float()),
        call(image.to(memory_format=torch.channels_last)),
        call(weight=weight.to(memory_format=torch.channels_last)),
        call(wide[:, ::2]),
        call(image[:, :, :4].contiguous()),
        call(image[:, :2].contiguous(), weight[:2]),
        call(weight=torch.ones(4, 2, 4, 4, dtype=torch.bfloat16)),
        call(bias=torch.ones(2, dtype=torch.bfloat16)),
        call(stride=1),
        call(padding=1),
        call(output_padding=1),
        call(dilation=2),
        call(groups=2),
        call(activation="tanh"),
    ]
    with fastgan.autotune():
        assert [clock.timed(one) for one in same] == [True, False, False, False]
        assert [clock.timed(one) for one in others] == [True] * len(others)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            assert clock.timed(same[0])
        finally:
            torch.set_num_threads(threads)
        assert not clock.timed(same[0])


@pytest.mark.parametrize("name", ["triton", "reference"])
def test_a_forced_backend_wins_and_is_not_timed(clock, name):
    fastest(clock, "native")
    with fastgan.autotune():
        with fastgan.use_backend(name):
            assert not clock.timed(up)
        up()
        with fastgan.use_backend(name):
            assert choice(up) == name
    with fastgan.use_backend(name):
        assert choice(up) == name
    assert choice(up) == "native"


def layer(activation="none"):
    return FF.conv2d(*operands(), stride=2, padding=1, activation=activation)


def run_backward():
    layer().square().sum().backward()


def test_gradients_are_timed_as_they_run(clock):
    """The reference of an input's gradient is torch's backward, that of the forward map torch's convolution."""
    fastest(clock, "triton")
    clock.costs["torch's backward"] = 0.5
    with fastgan.autotune():
        run_backward()
        up()
    with dispatch.trace() as calls:
        run_backward()
    assert calls == [("conv2d", "triton"), ("conv_transpose2d", "reference"), ("conv2d_weight", "triton")]
    assert choice(up) == "triton"


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_behind_an_activation_are_fused_where_that_is_faster(clock, fused):
    """One op by Triton beside what runs without it: an input's gradient and a weight's, each by its fastest."""
    fastest(clock, "reference")
    clock.costs |= {"native": 5.0, "torch's backward": 1.0, "triton": 1.5 if fused else 2.5}

    def work():
        layer("leaky_relu").square().sum().backward()

    with fastgan.autotune():
        work()
        assert not clock.timed(work)
    with dispatch.trace() as calls:
        work()
    alone = [("conv_transpose2d", "reference"), ("conv2d_weight", "reference")]
    assert calls == [("conv2d_act", "reference"), *([("conv2d_act_backward", "triton")] if fused else alone)]


def test_what_is_timed_is_in_no_trace(clock):
    with fastgan.autotune(), dispatch.trace() as calls:
        layer("relu").sum().backward()
    assert [op for op, _ in calls] == ["conv2d_act", "conv_transpose2d", "conv2d_weight"]


def test_what_a_backend_raises_is_raised(clock, monkeypatch):
    row = dispatch._table["conv_transpose2d"]

    def fails(*args):
        raise ZeroDivisionError("a bug in a kernel")

    monkeypatch.setitem(row, "triton", dataclasses.replace(row["triton"], run=fails))
    with fastgan.autotune():
        with pytest.raises(ZeroDivisionError, match="a bug in a kernel"):
            up()
        assert dispatch._measure is not None
    assert dispatch._measure is None
    assert choice(up) == "native"  # nothing is known
    with pytest.raises(ZeroDivisionError), fastgan.autotune():
        up()
    assert dispatch._measure is None


def test_triton_s_interpreter_is_neither_timed_nor_chosen(clock, monkeypatch):
    fastest(clock, "triton")
    with fastgan.autotune():
        up()
    assert choice(up) == "triton"
    monkeypatch.setattr(triton_runtime, "interpreting", lambda: True)
    fastgan.forget_tuning()
    fastgan.load_tuning()
    assert choice(up) == "native"  # the next one
    fastgan.forget_tuning()
    clock.ran.clear()
    with fastgan.autotune():
        run_backward()
    assert len(clock.ran) > 6 and "triton" not in clock.ran


def test_who_cannot_run_is_not_asked(clock, monkeypatch):
    row = dispatch._table["conv_transpose2d"]
    real = row["native"]
    closed = dataclasses.replace(real, supports=lambda *args: "not today")
    monkeypatch.setitem(row, "native", closed)
    fastest(clock, "native")
    with fastgan.autotune():
        up()
        assert "native" not in clock.ran
        monkeypatch.setitem(row, "native", real)
        assert clock.timed(up)  # it has never been timed
        assert choice(up) == "native"
        assert not clock.timed(up)
    monkeypatch.setitem(row, "native", closed)
    fastgan.load_tuning()
    assert choice(up) != "native"


def test_where_only_one_can_run_nothing_is_timed(clock, monkeypatch):
    row = dispatch._table["conv_transpose2d"]
    for name in ("native", "triton"):
        monkeypatch.setitem(row, name, dataclasses.replace(row[name], supports=lambda *args: "not today"))
    with fastgan.autotune():
        assert not clock.timed(up)


def test_every_op_has_a_key_but_for_those_that_edit_what_they_need():
    assert set(dispatch.op_names()) - set(OPS) == {"bce_with_logits_backward_", "discriminator_loss_backward_"}


def test_threads_time_one_after_the_other(clock):
    barrier, inside, most = threading.Barrier(4), [], []
    real = timing.measure

    def measure(runs, device):
        inside.append(1)
        most.append(len(inside))
        try:
            return real(runs, device)
        finally:
            inside.pop()

    def work(batch):
        barrier.wait()
        up(batch)

    timing.measure = measure
    try:
        with fastgan.autotune():
            threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 4, 8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        timing.measure = real
    assert most == [1] * 4


def test_blocks_nest_and_each_has_its_folder(clock, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    with fastgan.autotune(one):
        up()
        with fastgan.autotune(two):
            layer()
        up(9)
    for folder, count in ((one, 3), (two, 2)):
        fastgan.forget_tuning()
        fastgan.load_tuning(folder)
        up()
        (table,) = fastgan.tuning._tables._by_name.values()
        assert len(table.entries) == count, folder


def test_a_block_goes_on_after_its_table_is_forgotten(clock):
    fastest(clock, "triton")
    with fastgan.autotune():
        up()
        fastgan.forget_tuning()
        assert clock.timed(up)
        assert choice(up) == "triton"
    fastgan.forget_tuning()
    assert choice(up) == "native"


def test_a_path_that_is_none_is_the_caller_s_error():
    with pytest.raises(TypeError):
        fastgan.load_tuning(3)


def small_call():
    image, weight = torch.ones(2, 4, 6, 6, requires_grad=True), torch.ones(8, 4, 3, 3, requires_grad=True)
    return FF.conv2d(image, weight, padding=1)


def is_torchs(output):
    return type(output.grad_fn).__name__.startswith("ConvolutionBackward")


@pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
@pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
@pytest.mark.parametrize(("native", "left"), [(0.9999, False), (0.99995, True), (1.5, True)])
def test_measured_times_say_which_calls_are_left_to_torch(clock, monkeypatch, native, left):
    """Small float32 calls on a CPU go to torch's own op unless all our ops together take less than torch's forward and
    backward by more than our Python costs, 60 us and 80 us for each of two gradients."""
    assert is_torchs(small_call()) and is_torchs(small_call())
    clock.costs |= {"native": native, "reference": 2.0, "triton": 2.0, "torch's backward": 2.0, "torch": 3.0}
    monkeypatch.setitem(small._OPS, "conv2d", clock.moved_by("torch", torch.conv2d))
    with fastgan.autotune():
        output = small_call()
        assert not is_torchs(output)  # its gradients are not known
        output.square().sum().backward()
        assert not clock.timed(lambda: small_call().square().sum().backward())
        assert is_torchs(small_call()) is left
    for _ in range(2):
        assert is_torchs(small_call()) is left
    fastgan.forget_tuning()
    assert is_torchs(small_call())
    fastgan.load_tuning()
    assert is_torchs(small_call()) is left


@pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("wanted", [(), (0,), (1,), (0, 1)])
def test_torchs_own_time_is_that_of_the_gradients_asked_for(clock, monkeypatch, wanted, transposed):
    seen = []
    monkeypatch.setattr(dispatch, "torchs_time", lambda op, args, gradients, run: seen.append((op, run)))
    weight = torch.randn((4, 8, 3, 3) if transposed else (8, 4, 3, 3))
    operands = [torch.randn(2, 4, 6, 6), weight]
    for index in wanted:
        operands[index].requires_grad_()
    options = {
        "stride": 2,
        "padding": (1, 0),
        "activation": "tanh",
        **({"output_padding": (1, 0)} if transposed else {}),
    }
    call = FF.conv_transpose2d if transposed else FF.conv2d
    with fastgan.autotune():
        call(*operands, **options)
    ((op, run),) = seen
    with torch.no_grad(), Watch() as watch:
        run()
    assert op == ("conv_transpose2d_act" if transposed else "conv2d_act")
    masks = [arguments[-1] for name, arguments in watch.seen if name == "aten.convolution_backward.default"]
    assert [list(mask) for mask in masks] == ([[0 in wanted, 1 in wanted, False]] if wanted else [])


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append((str(function), args))
        return function(*args, **(kwargs or {}))
