"""The sigmoid-BCE loss: values and gradients by the rule, numbers as targets, special logits, shapes, orders."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import fastgan
from fastgan import dispatch
from fastgan.functional import binary_cross_entropy_with_logits as loss
from tests.checks import DTYPES, assert_exact, assert_rule, assert_tight, backend_reason
from tests.ops.cases import LAYOUTS, Undefined, dtypes, interpreter_overflows, wide, with_gradients

torchs = F.binary_cross_entropy_with_logits
NAN, INF = float("nan"), float("inf")
REDUCTIONS = ("none", "mean", "sum")
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)


def compare(x, target, weight=None, pos_weight=None, reduction="mean", grad=None, device=None):
    """Value and gradients to the logits and, if it is a tensor, the target, by the rule."""
    x, target, weight, pos_weight = (
        t.to(device) if isinstance(t, torch.Tensor) else t for t in (x, target, weight, pos_weight)
    )
    tensors = [x, target] if isinstance(target, torch.Tensor) else [x]

    def call(function, weight, pos_weight):
        def run(x, t=target):
            t = t if function is loss or isinstance(t, torch.Tensor) else torch.full_like(x, t)
            return function(x, t, weight, reduction=reduction, pos_weight=pos_weight)

        return run

    mine = with_gradients(call(loss, weight, pos_weight), tensors, grad)
    theirs = with_gradients(call(torchs, weight, pos_weight), tensors, grad)
    if not isinstance(target, torch.Tensor):
        target = float(torch.tensor(target, dtype=x.dtype))
    judged = with_gradients(call(torchs, *wide((weight, pos_weight))), wide(tensors), grad)
    for name, one, other, judge in zip(("loss", "grad_input", "grad_target"), mine, theirs, judged, strict=False):
        if one.dtype is torch.float64:
            assert_tight(name, one, judge)
        else:
            assert_rule(name, one, other, judge)


@dtypes
@reductions
@pytest.mark.parametrize("size", [1, 2, 31, 1023, 1024, 1025, 4097], ids="n{}".format)
def test_values_and_gradients(size, reduction, dtype, backend, device):
    x = (torch.randn(size) * 3).to(dtype)
    compare(x, torch.rand(size).to(dtype), reduction=reduction, device=device)


@dtypes
@reductions
@pytest.mark.parametrize("target", [0.0, 1.0, 0.9, 1, -0.5, 2.0])
def test_a_number_as_target(target, reduction, dtype, backend, device):
    compare((torch.randn(7, 5) * 3).to(dtype), target, reduction=reduction, device=device)


@dtypes
@reductions
@pytest.mark.parametrize("target", [0.0, 1.0, 0.9, 0.1, 1 / 3])
def test_a_number_equals_the_filled_tensor_bit_for_bit(target, reduction, dtype, backend, device):
    x = (torch.randn(3000) * 3).to(device, dtype)
    by_number = with_gradients(lambda x: loss(x, target, reduction=reduction), [x])
    by_tensor = with_gradients(lambda x: loss(x, torch.full_like(x, target), reduction=reduction), [x])
    assert all(torch.equal(one, other) for one, other in zip(by_number, by_tensor, strict=True))


@pytest.mark.parametrize("target", [0.9, 1.0])
def test_a_number_equals_the_filled_tensor_with_both_weights(target, backend, device):
    x, weight, pos_weight = (
        torch.randn(50, 3, device=device),
        torch.rand(3, device=device),
        torch.rand(3, device=device),
    )
    by_number = with_gradients(lambda x: loss(x, target, weight, pos_weight=pos_weight), [x])
    by_tensor = with_gradients(lambda x: loss(x, torch.full_like(x, target), weight, pos_weight=pos_weight), [x])
    assert all(torch.equal(one, other) for one, other in zip(by_number, by_tensor, strict=True))


@pytest.mark.parametrize("of_pos_weight", [None, (), (1,), (4,), (3, 1), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("of_weight", [None, (), (1,), (4,), (3, 1), (2, 1, 1), (2, 3, 4)], ids=str)
def test_shapes_of_weight_and_pos_weight(of_weight, of_pos_weight, backend, device):
    weight, pos_weight = (None if shape is None else torch.rand(shape) * 3 for shape in (of_weight, of_pos_weight))
    x, target = torch.randn(2, 3, 4), torch.rand(2, 3, 4)
    compare(x, target, weight, pos_weight, device=device)
    compare(x, 0.9, weight, pos_weight, "none", device=device)


@dtypes
@reductions
def test_dtypes_with_both_weights(dtype, reduction, backend, device):
    tensors = (torch.randn(6, 5), torch.rand(6, 5), torch.rand(5) * 3, torch.rand(6, 1) * 3)
    compare(*(tensor.to(dtype) for tensor in tensors), reduction, device=device)


MIXED = [pair for pair in itertools.product(DTYPES, repeat=2) if pair[0] != pair[1]]


@pytest.mark.parametrize(("of_input", "of_target"), MIXED, ids=str)
def test_the_result_has_the_targets_dtype(of_input, of_target, backend, device):
    x, target = torch.randn(6, 5).to(device, of_input), torch.rand(6, 5).to(device, of_target)
    mine = with_gradients(lambda x: loss(x, target, reduction="none"), [x])
    theirs = with_gradients(lambda x: torchs(x, target, reduction="none"), [x])
    judged = with_gradients(lambda x: torchs(x, target.double(), reduction="none"), wide([x]))
    for name, one, other, judge in zip(("loss", "gradient"), mine, theirs, judged, strict=True):
        assert_rule(name, one, other, judge)


@interpreter_overflows
@reductions
@pytest.mark.parametrize("value", [1e4, -1e4, 3e38, -3e38], ids="{:.0e}".format)
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_huge_logits(value, target, reduction, backend, device):
    compare(torch.tensor([value]), target, reduction=reduction, device=device)


@pytest.mark.parametrize("value", [17.0, 20.0, 50.0, 80.0])
def test_the_tail_of_the_softplus_is_not_rounded_away(value, backend, device):
    """log(1 + exp(-x)) is 0 in float32 from 17 on; log1p(exp(-x)) is not. One element: 2 ulp of itself."""
    for x, target in ((value, 1.0), (-value, 0.0)):
        x = torch.tensor([x], device=device)
        t = torch.full_like(x, target)
        # torch's own float64 loss loses it for -x: (-50 + 50) + tail
        tail = torch.log1p(torch.exp(-x.double().abs()))[0]
        assert_rule("loss", loss(x, target), torchs(x, t), tail)


@interpreter_overflows
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0, "tensor"])
@pytest.mark.parametrize("pos_weight", [None, 2.0])
@pytest.mark.parametrize("value", [INF, -INF, NAN], ids=["inf", "-inf", "nan"])
def test_infinities_and_nan_are_torchs(value, pos_weight, target, backend, device):
    x = torch.tensor([value, 0.5, -0.5], device=device)
    t = torch.tensor([0.0, 0.25, 1.0], device=device) if target == "tensor" else torch.full_like(x, target)
    p = None if pos_weight is None else torch.tensor([pos_weight], device=device)
    mine = with_gradients(lambda x: loss(x, t if target == "tensor" else target, reduction="none", pos_weight=p), [x])
    theirs = with_gradients(lambda x: torchs(x, t, reduction="none", pos_weight=p), [x])
    for name, one, other in zip(("loss", "gradient"), mine, theirs, strict=True):
        assert_rule(name, one, other, other.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sums_of_a_million_halves(dtype, reduction, device):
    with fastgan.use_backend("reference"):
        compare(torch.randn(2**20).to(dtype), 1.0, reduction=reduction, device=device)


def test_float16_gradients_of_a_mean_of_a_million_with_a_scaled_loss(backend, device):
    """1 / N is subnormal in float16 and the scale close to its largest number; their product is neither."""
    size = 2**12 if backend == "triton" and device.type == "cpu" else 2**20
    x = torch.full((size,), 0.0, dtype=torch.float16, device=device)
    _, gradient = with_gradients(lambda x: loss(x, 1.0), [x], torch.tensor(32768.0, device=device))
    assert_exact("gradient", gradient, torch.full((size,), -0.5 * 32768 / size, dtype=torch.float64))


@reductions
def test_no_dimensions(reduction, backend, device):
    compare(torch.tensor(0.7), torch.tensor(0.2), reduction=reduction, device=device)


@reductions
@pytest.mark.parametrize("target", ["tensor", 1.0])
def test_empty(target, reduction, backend, device):
    x = torch.empty(0, 3, device=device)
    mine = with_gradients(lambda x: loss(x, x.detach() if target == "tensor" else target, reduction=reduction), [x])
    theirs = with_gradients(lambda x: torchs(x, x.detach(), reduction=reduction), [x])
    for name, one, other in zip(("loss", "gradient"), mine, theirs, strict=True):
        assert_exact(name, one, other.double())


@pytest.mark.parametrize("of_target", LAYOUTS)
@pytest.mark.parametrize("of_input", LAYOUTS)
def test_layouts(of_input, of_target, backend, device):
    names = list(LAYOUTS)
    of_grad = names[(names.index(of_input) + names.index(of_target)) % len(names)]  # every pair of layouts occurs
    x, target, grad = torch.randn(2, 3, 4, 3), torch.rand(2, 3, 4, 3), torch.randn(2, 3, 4, 3)
    x, target, grad = LAYOUTS[of_input](x), LAYOUTS[of_target](target), LAYOUTS[of_grad](grad)
    weight = LAYOUTS[of_target](torch.rand(2, 3, 4, 3))
    compare(x, target, weight, reduction="none", grad=grad.to(device), device=device)


@pytest.mark.parametrize(("size_average", "reduce"), list(itertools.product([None, True, False], repeat=2)), ids=str)
def test_legacy_flags_warn_and_override(size_average, reduce, backend, device):
    x, target = torch.randn(5, device=device), torch.rand(5, device=device)

    def call(function):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            output = function(x, target, None, size_average, reduce, "sum")
        return output, [(warning.category, str(warning.message)) for warning in caught]

    (mine, my_warnings), (theirs, their_warnings) = call(loss), call(torchs)
    assert my_warnings == their_warnings
    assert_rule(
        "loss", mine, theirs, torchs(x.double(), target.double(), None, None, None, reduction_of(size_average, reduce))
    )


def reduction_of(size_average, reduce):
    if size_average is None and reduce is None:
        return "sum"
    return "none" if reduce is False else "sum" if size_average is False else "mean"


@reductions
@pytest.mark.parametrize("needed", [(True, False), (False, True), (True, True)], ids=["input", "target", "both"])
def test_masks_of_needs_input_grad(needed, reduction, backend, device):
    x, target = (torch.randn(4, 3, device=device).double().requires_grad_(need) for need in needed)
    leaves = [leaf for leaf in (x, target) if leaf.requires_grad]
    judged = torch.autograd.grad(torchs(x, target, reduction=reduction).sum(), leaves)
    loss(x, target, reduction=reduction).sum().backward()
    assert [leaf.grad is not None for leaf in (x, target)] == list(needed)
    for leaf, judge in zip(leaves, judged, strict=True):
        assert_tight("gradient", leaf.grad, judge)


def test_no_gradient_is_computed_when_none_is_needed(backend, device):
    x = torch.randn(4, device=device)
    assert torch.ops.fastgan.bce_with_logits(x, None, 1.0, None, None, 1, False)[1].numel() == 0
    assert not loss(x, 1.0).requires_grad
    with torch.no_grad():
        assert not loss(x.requires_grad_(), 1.0).requires_grad


@reductions
@pytest.mark.parametrize("target", ["tensor", 0.3])
def test_every_order_of_gradient(target, reduction, backend, device):
    x, t, w, p = (torch.rand(3, 2, dtype=torch.float64, device=device) + 0.2 for _ in range(4))
    leaves = [x.requires_grad_()] + ([t.requires_grad_()] if target == "tensor" else [])

    def call(x, t=target):
        return loss(x, t, w, reduction=reduction, pos_weight=p)

    gradcheck(call, leaves, fast_mode=True)
    gradgradcheck(call, leaves, fast_mode=True)


def test_the_target_may_be_a_function_of_the_input(backend, device):
    x = torch.randn(5, dtype=torch.float64, device=device, requires_grad=True)

    def second(function):
        (first,) = torch.autograd.grad(function(x, x.sigmoid()), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    assert_tight("gradient", second(loss), second(torchs))


def test_an_undefined_gradient_is_no_gradient(backend, device):
    x = torch.randn(5, device=device, requires_grad=True)
    (Undefined.apply(loss(x, 1.0)) + x.sum()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_retain_graph_gives_the_same_gradients_twice(backend, device):
    x = torch.randn(5, device=device, requires_grad=True)
    output = loss(x, 1.0)
    first, second = (torch.autograd.grad(output, x, retain_graph=True)[0] for _ in range(2))
    third = torch.autograd.grad(output, x)[0]  # may be the saved tensor, as nobody else can get that any more
    assert torch.equal(first, second) and torch.equal(first, third)
    assert len({tensor.data_ptr() for tensor in (first, second, third)}) == 3
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(output, x)


@reductions
def test_what_hooks_of_saved_tensors_have_seen_is_not_overwritten(reduction, backend, device):
    seen = []

    def pack(tensor):
        seen.append((tensor, tensor.clone()))
        return tensor

    x = torch.randn(5, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = loss(x, 0.3, reduction=reduction)
    (3 * output).sum().backward()
    assert seen and all(torch.equal(tensor, before) for tensor, before in seen)


def test_the_last_backward_takes_no_further_memory_of_that_size(device):
    """It scales the saved gradient in place, and the leaf keeps that tensor."""
    x = torch.randn(5, device=device, requires_grad=True)
    with dispatch.trace() as calls:
        output = loss(x, 0.3)
        saved = output.grad_fn.saved_tensors[0].data_ptr()
        output.backward()
    assert [op for op, _ in calls] == ["bce_with_logits", "bce_with_logits_backward_"]
    assert x.grad.data_ptr() == saved


@pytest.mark.parametrize("edited", ["input", "target"])
def test_editing_a_saved_tensor_raises(edited, backend, device):
    tensors = {name: torch.rand(5, device=device).requires_grad_() for name in ("input", "target")}
    output = loss(**tensors)
    with torch.no_grad():
        tensors[edited].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_float32(low, backend, device):
    x, target = torch.randn(9, device=device).to(low).requires_grad_(), torch.rand(9, device=device).to(low)
    with torch.autocast(device.type, low):
        output = loss(x, target)
        by_number = loss(x, 1.0)
    assert output.dtype == by_number.dtype == torch.float32
    assert_rule("loss", output, torchs(x.float(), target.float()), torchs(x.double(), target.double()))
    assert torch.autograd.grad(output, x)[0].dtype == low


@reductions
def test_every_output_is_written(reduction, backend, device):
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        outputs = [
            with_gradients(lambda x: loss(x, 0.3, reduction=reduction), [torch.zeros(n, device=device)])
            for n in (1, 1500)
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(tensor.isfinite().all() for pair in outputs for tensor in pair)


@dtypes
@reductions
@pytest.mark.parametrize("size", [0, 1, 3, 8, 17, 1000, 40001], ids="n{}".format)
def test_the_native_loss(size, reduction, dtype, device):
    reason = backend_reason("native", device)
    if reason is not None:
        pytest.skip(reason)
    x, target = (torch.randn(size) * 3).to(device, dtype), torch.rand(size).to(device, dtype)
    number = {"none": 0, "mean": 1, "sum": 2}[reduction]
    judge = torchs(x.double(), target.double(), reduction=reduction)
    with fastgan.use_backend("native"), dispatch.trace() as calls:
        value, gradient = torch.ops.fastgan.bce_with_logits(x, target, 0.0, None, None, number, True)
        filled = torch.ops.fastgan.bce_with_logits(x, torch.full_like(x, 0.9), 0.0, None, None, number, True)
        by_number = torch.ops.fastgan.bce_with_logits(x, None, 0.9, None, None, number, True)
    assert calls == [("bce_with_logits", "native")] * 3
    assert_rule("loss", value, torchs(x, target, reduction=reduction), judge)
    unreduced = with_gradients(lambda x: torchs(x, target, reduction="sum"), [x])[1]
    assert_rule(
        "gradient",
        gradient,
        unreduced,
        with_gradients(lambda x: torchs(x, target.double(), reduction="sum"), wide([x]))[1],
    )
    for one, other in zip(by_number, filled, strict=True):
        assert_exact("a number as target", one, other.double())
