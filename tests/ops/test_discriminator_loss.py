"""The discriminator's loss of real and fake logits in one op: against the two losses, by the rule, on every backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import fastgan
from fastgan import dispatch
from fastgan.functional import binary_cross_entropy_with_logits, discriminator_loss
from tests.checks import DTYPES, assert_exact, assert_rule, assert_tight, assert_torch_layout, backend_reason
from tests.ops.cases import LAYOUTS, Undefined, dtypes, interpreter_overflows, on_threads, wide, with_gradients

NAMES = ("loss", "grad_real", "grad_fake")


def torchs(real, fake, smoothing=0.0):
    """By two of torch's losses."""
    first = F.binary_cross_entropy_with_logits(real, torch.full_like(real, 1 - smoothing))
    return first + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def judge(real, fake, smoothing=0.0, grad=None):
    """In float64; the target is rounded to the logits' dtype, as a tensor full of it would be."""
    target = float(torch.tensor(1 - smoothing, dtype=real.dtype))
    return with_gradients(lambda real, fake: torchs(real, fake, 1 - target), wide([real, fake]), grad)


def compare(real, fake, smoothing=0.0, grad=None):
    """Value and gradients by the rule; returns them."""
    with dispatch.trace() as calls:
        mine = with_gradients(lambda *logits: discriminator_loss(*logits, smoothing), [real, fake], grad)
    assert [op for op, _ in calls] == ["discriminator_loss", "discriminator_loss_backward_"]
    theirs = with_gradients(lambda *logits: torchs(*logits, smoothing), [real, fake], grad)
    for name, one, other, right in zip(NAMES, mine, theirs, judge(real, fake, smoothing, grad), strict=True):
        if one.dtype is torch.float64:
            assert_tight(name, one, right)
        else:
            assert_rule(name, one, other, right)
    return mine


def logits(*shape, dtype=torch.float32, device):
    return (torch.randn(shape, dtype=torch.float64) * 3).to(device, dtype)


@dtypes
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("sizes", [(1, 1), (128, 128), (5, 1030), (1030, 5), (4100, 2049)], ids=str)
def test_values_and_gradients(sizes, smoothing, dtype, backend, device):
    """One program or block and several, of which one tensor fills more than the other; parts of a tile or pack."""
    compare(*(logits(size, dtype=dtype, device=device) for size in sizes), smoothing)


@pytest.mark.parametrize("seed", [0.0, 1.0, -2.5])
def test_what_comes_from_above_scales_both(seed, backend, device):
    compare(logits(70, device=device), logits(1500, device=device), grad=torch.tensor(seed, device=device))


@dtypes
def test_it_is_the_two_losses_added(dtype, backend, device):
    """On whole numbers: their gradients bit for bit."""
    real, fake = (torch.randint(-3, 4, (n,)).to(device, dtype) for n in (64, 256))

    def apart(real, fake):
        first = binary_cross_entropy_with_logits(real, 0.75)
        return first + binary_cross_entropy_with_logits(fake, 0.0)

    _, *mine = with_gradients(lambda *both: discriminator_loss(*both, 0.25), [real, fake])
    _, *theirs = with_gradients(apart, [real, fake])
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("of_fake", LAYOUTS)
@pytest.mark.parametrize("of_real", LAYOUTS)
def test_layouts(of_real, of_fake, backend, device):
    real = LAYOUTS[of_real](logits(2, 3, 4, 3, device=device))
    fake = LAYOUTS[of_fake](logits(3, 3, 2, 3, device=device))
    if backend == "native" and not (real.is_contiguous() and fake.is_contiguous()):
        with pytest.raises(fastgan.dispatch.BackendError, match="the native loss needs contiguous tensors"):
            discriminator_loss(real, fake)
        return
    _, *gradients = compare(real, fake)
    for name, gradient, like in zip(NAMES[1:], gradients, (real, fake), strict=True):
        assert_torch_layout(name, gradient, torch.empty_like(like))


@interpreter_overflows
@pytest.mark.parametrize("where", ["real", "fake"])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 1e4, -1e4, 3e38])
def test_special_logits_are_torchs(value, where, backend, device):
    both = {"real": torch.tensor([0.5, -0.5], device=device), "fake": torch.tensor([1.0, 2.0, 3.0], device=device)}
    both[where][0] = value
    mine = with_gradients(lambda real, fake: discriminator_loss(real, fake), list(both.values()))
    theirs = with_gradients(torchs, list(both.values()))
    for name, one, other in zip(NAMES, mine, theirs, strict=True):
        assert_rule(name, one, other, other.double())


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_nothing_has_no_mean(sizes, backend, device):
    """NaN, and no gradient for what is not there; the other's is right, whatever the loss is."""
    real, fake = (logits(size, device=device) for size in sizes)
    mine = with_gradients(discriminator_loss, [real, fake])
    theirs = with_gradients(torchs, [real, fake])
    assert mine[0].isnan()
    for name, one, other, right in zip(NAMES[1:], mine[1:], theirs[1:], judge(real, fake)[1:], strict=True):
        assert_rule(name, one, other, right)


def test_no_dimensions(backend, device):
    compare(logits(device=device), logits(device=device), 0.1)


def test_float16_gradients_of_many_with_a_scaled_loss(backend, device):
    """1 / N is subnormal in float16 and the scale close to its largest number; their product is neither."""
    size = 2**12 if backend == "triton" and device.type == "cpu" else 2**17
    zeros = torch.zeros(size, dtype=torch.float16, device=device)
    _, *gradients = with_gradients(discriminator_loss, [zeros, zeros], torch.tensor(32768.0, device=device).half())
    for gradient, sign in zip(gradients, (-1, 1), strict=True):
        assert_exact("gradient", gradient, torch.full((size,), sign * 0.5 * 32768 / size, dtype=torch.float64))


@pytest.mark.parametrize("needed", [(True, False), (False, True), (False, False)], ids=str)
def test_masks_of_needs_input_grad(needed, backend, device):
    real, fake = (logits(n, dtype=torch.float64, device=device) for n in (4, 6))
    for leaf, need in zip((real, fake), needed, strict=True):
        leaf.requires_grad_(need)
    value = discriminator_loss(real, fake)
    assert value.requires_grad == any(needed)
    if any(needed):
        (3 * value).backward()
    for name, leaf, right in zip(NAMES[1:], (real, fake), judge(real.detach(), fake.detach())[1:], strict=True):
        assert (leaf.grad is not None) == leaf.requires_grad
        if leaf.grad is not None:
            assert_tight(name, leaf.grad, 3 * right)


def test_no_gradient_is_computed_when_none_is_needed(backend, device):
    real, fake = logits(4, device=device), logits(6, device=device)
    loss, *gradients = torch.ops.fastgan.discriminator_loss(real, fake, 1.0, False)
    assert [gradient.numel() for gradient in gradients] == [0, 0]
    assert torch.equal(loss, torch.ops.fastgan.discriminator_loss(real, fake, 1.0, True)[0])
    with torch.no_grad():
        assert not discriminator_loss(real.requires_grad_(), fake).requires_grad


def test_every_order_of_gradient(backend, device):
    real, fake = (torch.randn(n, dtype=torch.float64, device=device, requires_grad=True) for n in (3, 5))
    gradcheck(lambda *both: discriminator_loss(*both, 0.1), (real, fake), fast_mode=True)
    gradgradcheck(lambda *both: discriminator_loss(*both, 0.1), (real, fake), fast_mode=True)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_functional_transforms(backend, device):
    """vmap, jvp, grad of grad: each by torch's two losses in float64."""
    real, fake = (torch.randn(3, n, dtype=torch.float64, device=device) for n in (4, 6))
    rows = torch.func.vmap(discriminator_loss)(real, fake)
    assert_tight("vmap", rows, torch.stack([torchs(*pair) for pair in zip(real, fake, strict=True)]))
    tangents = (torch.randn_like(real), torch.randn_like(fake))
    for mine, right in zip(
        torch.func.jvp(discriminator_loss, (real, fake), tangents), torch.func.jvp(torchs, (real, fake), tangents),
        strict=True,
    ):  # fmt: skip
        assert_tight("jvp", mine, right)
    hessians = (torch.func.hessian(function, argnums=1)(real, fake) for function in (discriminator_loss, torchs))
    assert_tight("hessian", *hessians)


def test_an_undefined_gradient_is_no_gradient(backend, device):
    real, fake = (logits(5, device=device).requires_grad_() for _ in range(2))
    (Undefined.apply(discriminator_loss(real, fake)) + real.sum()).backward()
    assert torch.equal(real.grad, torch.ones_like(real)) and fake.grad is None


def test_retain_graph_gives_the_same_gradients_twice(backend, device):
    both = [logits(5, device=device).requires_grad_() for _ in range(2)]
    value = discriminator_loss(*both)
    with dispatch.trace() as calls:
        first, second = (torch.autograd.grad(value, both, retain_graph=True) for _ in range(2))
        third = torch.autograd.grad(value, both)
    assert [op for op, _ in calls] == [*["discriminator_loss_backward"] * 2, "discriminator_loss_backward_"]
    for one, two, three in zip(first, second, third, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
        assert len({tensor.data_ptr() for tensor in (one, two, three)}) == 3
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, both)


def test_what_hooks_of_saved_tensors_have_seen_is_not_overwritten(backend, device):
    seen = []

    def pack(tensor):
        seen.append((tensor, tensor.clone()))
        return tensor

    both = [logits(5, device=device).requires_grad_() for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = discriminator_loss(*both)
    (3 * value).backward()
    assert seen and all(torch.equal(tensor, before) for tensor, before in seen)


@pytest.mark.parametrize("edited", [0, 1], ids=["real", "fake"])
def test_editing_a_saved_tensor_raises(edited, backend, device):
    both = [logits(5, device=device).requires_grad_() for _ in range(2)]
    value = discriminator_loss(*both)
    with torch.no_grad():
        both[edited].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_the_same_logits_may_be_both(backend, device):
    """Their gradients add up."""
    x = logits(9, dtype=torch.float64, device=device).requires_grad_()
    discriminator_loss(x, x).backward()
    assert_tight("gradient", x.grad, sum(judge(x.detach(), x.detach())[1:]))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_float32(low, backend, device):
    real, fake = (logits(9, dtype=low, device=device).requires_grad_() for _ in range(2))
    with torch.autocast(device.type, low):
        value = discriminator_loss(real, fake)
    assert value.dtype == torch.float32
    assert_rule("loss", value, torchs(real.float(), fake.float()), torchs(real.double(), fake.double()))
    assert all(gradient.dtype == low for gradient in torch.autograd.grad(value, (real, fake)))


def test_logits_of_two_dtypes_are_two_losses(backend, device):
    real, fake = logits(9, dtype=torch.bfloat16, device=device), logits(7, device=device)
    with dispatch.trace() as calls:
        value, *gradients = with_gradients(discriminator_loss, [real, fake])
    assert [op for op, _ in calls if not op.endswith("_")] == ["bce_with_logits"] * 2
    assert value.dtype == torch.float32 and [g.dtype for g in gradients] == [torch.bfloat16, torch.float32]
    for name, one, other, right in zip(
        NAMES, (value, *gradients), with_gradients(torchs, [real, fake]), judge(real, fake), strict=True
    ):
        assert_rule(name, one, other, right)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about the choice on a CPU")
def test_few_logits_in_eager_mode_are_left_to_torch_on_a_cpu():
    real, fake = torch.randn(8, requires_grad=True), torch.randn(6)
    value = discriminator_loss(real, fake, 0.1)
    assert any("BinaryCrossEntropy" in type(node).__name__ for node, _ in value.grad_fn.next_functions)
    assert_exact("loss", value, torchs(real, fake, 0.1).double())
    ours = discriminator_loss(real, torch.randn(1 << 15))
    assert type(ours.grad_fn).__name__ == "DiscriminatorLossBackward"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_compiled(smoothing, device):
    """Forward and backward in one graph, with no break, and the results of eager mode."""
    both = [logits(n, device=device).requires_grad_() for n in (40, 24)]
    function = torch.compile(
        lambda *both: 2 * discriminator_loss(*both, smoothing), fullgraph=True, backend="aot_eager"
    )
    mine = (function(*both), *torch.autograd.grad(function(*both), both))
    with fastgan.use_backend("reference"):
        value = 2 * discriminator_loss(*both, smoothing)
        theirs = (value, *torch.autograd.grad(value, both))
    for name, one, other in zip(NAMES, mine, theirs, strict=True):
        assert_rule(name, one, other, other.double())


def test_threads_make_no_difference_to_the_native_loss():
    if backend_reason("native", torch.device("cpu")) is not None:
        pytest.skip(str(backend_reason("native", torch.device("cpu"))))
    real, fake = torch.randn(200_001), torch.randn(70_003)
    with fastgan.use_backend("native"):
        on_threads(lambda: torch.ops.fastgan.discriminator_loss(real, fake, 0.9, True))


ZEROS = torch.zeros(3)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (([0.0], ZEROS), TypeError, r"argument 'real_logits' \(position 1\) must be Tensor, not list"),
        ((ZEROS, None), TypeError, r"argument 'fake_logits' \(position 2\) must be Tensor, not NoneType"),
        ((ZEROS.long(), ZEROS), TypeError, "real_logits must have dtype float64, float32, float16 or bfloat16"),
        ((ZEROS, ZEROS + 0j), TypeError, "fake_logits must have dtype"),
        ((ZEROS, ZEROS.to("meta")), RuntimeError, "Expected all tensors to be on the same device, but real_logits"),
        ((ZEROS, ZEROS, "much"), TypeError, "argument 'label_smoothing' must be a number, not str"),
        ((ZEROS, ZEROS, True), TypeError, "argument 'label_smoothing' must be a number, not bool"),
        ((ZEROS, ZEROS, -0.1), ValueError, r"label_smoothing must be between 0.0 and 1.0. Got: -0.1"),
        ((ZEROS, ZEROS, float("nan")), ValueError, r"label_smoothing must be between 0.0 and 1.0. Got: nan"),
    ],
)
def test_errors_name_the_argument(args, error, message):
    with dispatch.trace() as calls, pytest.raises(error, match=message):
        discriminator_loss(*args)
    assert not calls


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_meta_device(dtype):
    real, fake = (torch.empty(n, dtype=dtype, device="meta", requires_grad=True) for n in (3, 4))
    value = discriminator_loss(real, fake)
    assert value.is_meta and value.shape == () and value.dtype == dtype


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((torch.zeros(3, 4).t(), torch.zeros(5)), "contiguous tensors"),
        ((torch.zeros(3), torch.zeros(5).double()), "one dtype, got torch.float32 and torch.float64"),
        ((torch.zeros(3), torch.zeros(5, device="meta")), "on one device, got cpu and meta"),
        ((torch.zeros(3, device="meta"), torch.zeros(3, device="meta")), "no native kernels for meta tensors"),
    ],
)
def test_the_reason_why_not(args, reason):
    assert reason in dispatch.why_not("discriminator_loss", *args, 1.0, True)["native"]
