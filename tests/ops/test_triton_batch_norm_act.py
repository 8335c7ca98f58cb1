"""The Triton kernels of batch norm + activation: interpreted on machines without a GPU, on the GPU otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastgan
from fastgan.functional import batch_norm_act
from fastgan.ops.common.activation import NAMES, Activation
from tests.checks import DTYPES, assert_exact, assert_rule, assert_torch_layout, backend_reason

# The interpreter computes with numpy, which warns where NaN, infinity or a float16 overflow is what the test is about.
# Triton 3.6's turns loop bounds into numbers in a way that numpy 1.25 to 2.3 deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
]

Results = dict[str, torch.Tensor]
SLOPE, MOMENTUM, EPS = 0.2, 0.3, 1e-5


@pytest.fixture(autouse=True)
def only_triton(device: torch.device) -> Iterator[None]:
    """Triton or nothing, and torch.empty gives NaN, so that an element that no program writes shows."""
    reason = backend_reason("triton", device)
    if reason is not None:
        pytest.skip(reason)
    torch.use_deterministic_algorithms(True)
    try:
        with fastgan.use_backend("triton"), fastgan.dispatch.trace() as calls:
            yield
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(backend == "triton" for _, backend in calls), calls


def launch() -> Any:
    from fastgan.ops.batch_norm_act import triton_launch

    return triton_launch


def two_humps(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, mean: float = 0.5, std: float = 1.0
) -> torch.Tensor:
    """Data that stay clear of the batch mean: no rounding error moves an element across the activation's kink."""
    signs = 1.0 - 2.0 * torch.randint(2, shape)
    return (mean + std * signs * (0.8 + 0.4 * torch.rand(shape, dtype=torch.float64))).to(dtype).to(device)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nchw": lambda x: x,
    "nhwc": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: F.pad(x, (1, 2, 0, 1))[:, :, : x.shape[2], 1 : x.shape[3] + 1],
    "every second": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


class Case:
    """Arguments of one call and its three evaluations."""

    def __init__(
        self, x: torch.Tensor, grad: torch.Tensor, activation: str, training: bool = True, narrow: bool = True,
        affine: bool = True, momentum: float = MOMENTUM,
    ) -> None:  # fmt: skip
        channels, dtype = x.shape[1], x.dtype if narrow or x.dtype is torch.float64 else torch.float32
        self.x, self.grad, self.activation, self.training, self.momentum = x, grad, activation, training, momentum
        self.slope = {"none": 1.0, "relu": 0.0, "leaky_relu": SLOPE}[activation]
        self.weight = (0.5 + torch.rand(channels)).to(x.device, dtype) if affine else None
        self.bias = (0.1 * torch.randn(channels)).to(x.device, dtype) if affine else None
        self.running_mean = (torch.randn(channels) if training else torch.zeros(channels)).to(x.device, dtype)
        self.running_var = (0.5 + torch.rand(channels)).to(x.device, dtype)

    def evaluate(self, function: Callable[..., torch.Tensor]) -> Results:
        """Output, gradients and running statistics of ``function(x, running_mean, running_var, weight, bias)``."""
        leaves = {"dx": self.x, "dweight": self.weight, "dbias": self.bias}
        leaves = {k: v.detach().requires_grad_() for k, v in leaves.items() if v is not None}
        mean, var = self.running_mean.clone(), self.running_var.clone()
        y = function(leaves["dx"], mean, var, leaves.get("dweight"), leaves.get("dbias"))
        gradients = torch.autograd.grad(y, list(leaves.values()), self.grad)
        return {"y": y, "running_mean": mean, "running_var": var, **dict(zip(leaves, gradients, strict=True))}

    def ours(self) -> Results:
        with fastgan.dispatch.trace() as calls:
            results = self.evaluate(
                lambda x, m, v, w, b: batch_norm_act(
                    x, m, v, w, b, self.training, self.momentum, EPS, self.activation, SLOPE
                )
            )
        forward = "batch_norm_act_train" if self.training else "batch_norm_act_eval"
        assert calls == [(forward, "triton"), ("batch_norm_act_backward", "triton")]
        return results

    def torch(self) -> Results:
        def function(x: torch.Tensor, *vectors: torch.Tensor) -> torch.Tensor:
            y = F.batch_norm(x, *vectors, self.training, self.momentum, EPS)
            return F.relu(y) if self.activation == "relu" else F.leaky_relu(y, self.slope)

        return self.evaluate(function)

    def judge(self) -> Results:
        """The definition in extended precision, so that float64 can be judged too."""

        def wide(tensor: torch.Tensor | None, default: float) -> np.ndarray:
            values = torch.full((self.x.shape[1],), default) if tensor is None else tensor
            return values.double().cpu().numpy().astype(np.longdouble)

        def per_channel(vector: np.ndarray) -> np.ndarray:
            return vector.reshape(1, -1, *(1,) * (self.x.dim() - 2))

        x, g = wide(self.x, 0), wide(self.grad, 0)
        w, b = wide(self.weight, 1), wide(self.bias, 0)
        running = wide(self.running_mean, 0), wide(self.running_var, 1)
        axes = tuple(d for d in range(x.ndim) if d != 1)
        count = x.size // x.shape[1]
        mean = x.mean(axes) if self.training else running[0]
        var = ((x - per_channel(mean)) ** 2).mean(axes) if self.training else running[1]
        rstd = 1 / np.sqrt(var + np.longdouble(EPS))
        xhat = (x - per_channel(mean)) * per_channel(rstd)
        z = xhat * per_channel(w) + per_channel(b)
        slope = np.longdouble(self.slope)
        g = np.where(z > 0, g, g * slope)
        dweight, dbias = (g * xhat).sum(axes), g.sum(axes)
        correction = (per_channel(dbias) + xhat * per_channel(dweight)) / count if self.training else 0
        results = {"y": np.where(z > 0, z, z * slope), "dx": per_channel(w * rstd) * (g - correction)}
        if self.weight is not None:
            results |= {"dweight": dweight, "dbias": dbias}
        if self.training:
            m = np.longdouble(self.momentum)
            running = (1 - m) * running[0] + m * mean, (1 - m) * running[1] + m * var * count / (count - 1)
        results |= {"running_mean": running[0], "running_var": running[1]}
        return {name: torch.from_numpy(value.astype(np.float64)) for name, value in results.items()}

    def check(self) -> Results:
        ours, theirs, judge = self.ours(), self.torch(), self.judge()
        for name, value in ours.items():
            assert_rule(name, value, theirs[name], judge[name])
        for name in ("y", "dx"):
            assert_torch_layout(name, ours[name], torch.empty_like(self.x))
        return ours


def case(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layout: str = "nchw", activation: str = "relu",
    mean: float = 0.5, std: float = 1.0, **options: Any,
) -> Case:  # fmt: skip
    """A case of one of :data:`LAYOUTS`. Gradients lean towards the data, so that no sum cancels to nothing."""
    x = two_humps(shape, dtype, device, mean, std)
    lean = 0.3 + 0.3 * (x.double() - mean).sign()
    grad = (lean + 0.6 * torch.randn(shape, dtype=torch.float64).to(device)).to(dtype)
    return Case(LAYOUTS[layout](x), LAYOUTS[layout](grad), activation, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_training(layout: str, activation: str, dtype: torch.dtype, device: torch.device) -> None:
    case((3, 5, 6, 7), dtype, device, layout, activation).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "sliced"])
def test_eval(layout: str, activation: str, dtype: torch.dtype, device: torch.device) -> None:
    case((3, 5, 6, 7), dtype, device, layout, activation, training=False, mean=0.0).check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_half_input_with_float32_parameters(layout: str, dtype: torch.dtype, device: torch.device) -> None:
    case((3, 5, 6, 7), dtype, device, layout, narrow=False).check()


@pytest.mark.parametrize("rows", [2, 3, 15, 16, 17, 2047, 2048, 2049, 4097, 7 * 2048 + 5])
def test_tall_tile_edges(rows: int, device: torch.device) -> None:
    """NCHW: one channel per tile; from 4 tiles on several per program, the last of them partial."""
    case((1, 3, rows), torch.float32, device).check()


@pytest.mark.parametrize(
    ("rows", "channels"),
    [(31, 1), (33, 2), (31, 63), (32, 64), (33, 65), (33, 127), (32, 128), (31, 129), (9 * 32 + 1, 65), (9 * 32, 130)],
)
def test_wide_tile_edges(rows: int, channels: int, device: torch.device) -> None:
    """[rows, C] with the channels next to each other, as NHWC."""
    case((rows, channels), torch.float32, device, activation="leaky_relu").check()


@pytest.mark.parametrize("shape", [(2, 300, 1, 1), (5, 3, 1, 4, 3), (2, 3, 2, 1, 3, 2)])
def test_ranks(shape: tuple[int, ...], device: torch.device) -> None:
    case(shape, torch.float32, device).check()


@pytest.mark.parametrize("shape", [(70_000, 2), (2, 70_000), (70_000, 2, 1, 3)])
def test_more_than_a_grid_axis_holds(shape: tuple[int, ...], device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("the interpreter has no grid limits")
    case(shape, torch.float32, device).check()


def test_strides_that_need_a_copy(device: torch.device) -> None:
    """Rank 6, sliced in every dimension: more row coordinates than the kernels know."""
    whole = two_humps((4, 6, 4, 4, 4, 4), torch.float32, device)
    grad = 0.3 + torch.randn((2, 3, 2, 2, 2, 2), device=device)
    x = whole[::2, ::2, ::2, ::2, ::2, ::2]
    assert launch().merge_rows([x]) is None
    Case(x, grad, "relu").check()


def test_64_bit_rows(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch(), "MAX_INT32_ROWS", 0)
    case((3, 5, 6, 7), torch.float32, device, "sliced").check()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4, 1e5, -1e4])
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_mean_far_from_zero(mean: float, activation: str, layout: str, device: torch.device) -> None:
    case((4, 3, 23, 17), torch.float32, device, layout, activation, mean=mean, std=0.1).check()


def test_sums_that_cancel(device: torch.device) -> None:
    """Gradients and data around zero: what is left of a sum is far smaller than its terms."""
    one = case((4, 3, 40, 40), torch.float32, device, activation="none", mean=0.0)
    one.grad = torch.randn(one.x.shape, device=device)
    one.check()


def test_first_element_is_an_outlier(device: torch.device) -> None:
    """Statistics are taken relative to the first element; it need not be typical."""
    one = case((4, 3, 23, 17), torch.float32, device, activation="none")
    one.x[0, :, 0, 0] = 1e4
    one.check()


@pytest.mark.parametrize("layout", ["nhwc", "sliced", "transposed"])
def test_gradient_of_another_layout(layout: str, device: torch.device) -> None:
    for input_layout in ("nchw", "nhwc"):
        one = case((3, 5, 6, 7), torch.float32, device, input_layout)
        one.grad = LAYOUTS[layout](one.grad)
        one.check()


@pytest.mark.parametrize("training", [True, False])
def test_expanded(training: bool, device: torch.device) -> None:
    """A gradient that is one number, an input whose batch is one image: strides of 0."""
    one = case((3, 5, 6, 7), torch.float32, device, training=training)
    one.grad = torch.full((), 0.7, device=device).expand(3, 5, 6, 7)
    one.check()
    one.x = one.x[:1].expand(3, -1, -1, -1)
    one.check()


def test_strided_vectors(device: torch.device) -> None:
    """Parameters and buffers that are columns of a matrix."""
    one = case((3, 5, 6, 7), torch.float32, device)
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = getattr(one, name)
        setattr(one, name, torch.stack([vector, torch.full_like(vector, float("nan"))], dim=1)[:, 0])
    assert one.running_mean.clone().stride() == (1,), "clone() would hide the stride from the kernel"
    expected = one.check()
    mean, var = one.running_mean, one.running_var
    batch_norm_act(one.x, mean, var, one.weight, one.bias, True, MOMENTUM, EPS)
    assert torch.equal(mean, expected["running_mean"]) and torch.equal(var, expected["running_var"])
    assert mean._base.isnan()[:, 1].all(), "wrote beside the buffer"


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_and_smallest_batch(momentum: float, device: torch.device) -> None:
    """Two values per channel: the unbiased variance is twice the biased one."""
    for activation in ("none", "relu"):
        case((2, 7), torch.float32, device, activation=activation, momentum=momentum).check()


def test_without_parameters_and_buffers(device: torch.device) -> None:
    one = case((3, 5, 6, 7), torch.float32, device, affine=False)
    y = one.check()["y"]
    assert torch.equal(batch_norm_act(one.x, None, None, training=True, eps=EPS), y)


def test_empty(device: torch.device) -> None:
    for shape in [(0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 4, 4)]:
        x = torch.zeros(shape, device=device, requires_grad=True)
        weight, bias = (torch.ones(shape[1], device=device, requires_grad=True) for _ in range(2))
        mean, var = torch.full_like(weight, 3.0).detach(), torch.full_like(weight, 4.0).detach()
        for training in (True, False):
            y = batch_norm_act(x, mean, var, weight, bias, training)
            gradients = torch.autograd.grad(y, (x, weight, bias), torch.zeros_like(y))
            assert y.shape == x.shape and gradients[0].shape == x.shape
            assert not gradients[1].any() and not gradients[2].any()
        assert (mean == 3).all() and (var == 4).all(), "an empty batch says nothing about the statistics"


def test_nan_poisons_one_channel_only(device: torch.device) -> None:
    for layout in ("nchw", "nhwc"):
        clean = case((3, 5, 6, 7), torch.float32, device, layout)
        expected = clean.ours()
        clean.x[1, 2, 3, 4] = float("nan")
        others = [0, 1, 3, 4]
        for name, value in clean.ours().items():
            dim = 1 if value.dim() > 1 else 0
            index = torch.tensor(others, device=device)
            assert torch.equal(value.index_select(dim, index), expected[name].index_select(dim, index)), name
            if name in ("y", "dx", "running_mean", "running_var"):
                assert value.select(dim, 2).isnan().all(), f"{name} of the channel with the NaN"


def test_constant_channel(device: torch.device) -> None:
    """A channel full of 1e10: the mean is exact, the variance 0, the output the bias."""
    x = two_humps((3, 2, 40, 40), torch.float32, device, 0.0, 1.0)
    x[:, 1] = 1e10
    mean, var = torch.zeros(2, device=device), torch.ones(2, device=device)
    bias = torch.tensor([0.0, 0.25], device=device)
    y = batch_norm_act(x, mean, var, None, bias, True, 1.0, EPS, "none")
    assert_exact("y", y[:, 1], torch.full((3, 40, 40), 0.25, dtype=torch.float64))
    assert mean[1] == 1e10 and var[1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", NAMES)
def test_activation_at_special_values(activation: str, dtype: torch.dtype, device: torch.device) -> None:
    """With mean 0, rstd 1 the op is the activation; its value and slope at 0, -0, NaN and infinity are torch's."""
    special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1.0, -1.0, 2.0, -2.0]
    x = torch.tensor([special], dtype=dtype, device=device).T.contiguous().requires_grad_()
    zero, one = torch.zeros(1, dtype=dtype, device=device), torch.ones(1, dtype=dtype, device=device)
    y = batch_norm_act(x, zero, one, None, None, False, 0.1, 0.0, activation, 0.25)
    expected = {"relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.25), "none": lambda x: x * 1}[activation](x)
    grad = torch.full_like(y, 3.0)
    assert_exact("y", y, expected.detach().double())
    ours, theirs = (torch.autograd.grad(z, x, grad)[0] for z in (y, expected))
    assert_exact("dx", ours, theirs.double())


def test_programs_do_not_depend_on_each_other(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted programs run one after another; in another order they give the same bits."""
    if device.type != "cpu":
        pytest.skip("a GPU runs programs in an order of its own")
    from triton.runtime import interpreter

    cases = [case((2, 3, 70, 70), torch.float32, device), case((120, 70), torch.float32, device)]
    expected = [one.ours() for one in cases]

    longest = 0

    def shuffled(*bounds: int) -> list[int]:
        nonlocal longest
        order = list(range(*bounds))
        if len(bounds) == 1:  # a grid axis; loops inside kernels give start, stop and step
            random.Random(0).shuffle(order)
            longest = max(longest, len(order))
        return order

    monkeypatch.setattr(interpreter, "range", shuffled, raising=False)
    for one, before in zip(cases, expected, strict=True):
        for name, value in one.ours().items():
            assert torch.equal(value, before[name]), name
    assert longest > 2, "no grid was shuffled"


def test_offsets_beyond_32_bits(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("the interpreter copies the whole storage, 4 GiB here")
    torch.use_deterministic_algorithms(False)  # the storage need not be filled
    storage = torch.empty(2**31 + 64, dtype=torch.float16, device=device)
    one = case((2, 3, 8), torch.float16, device)
    far = storage.as_strided((2, 3, 8), (2**31, 8, 1)).copy_(one.x)
    expected = one.ours()
    one.x = far
    for name, value in one.ours().items():
        assert torch.equal(value, expected[name]), name


def test_activation_numbers() -> None:
    from fastgan.ops.batch_norm_act import triton_kernels

    assert triton_kernels.RELU.value == Activation.RELU
    assert triton_kernels.LEAKY_RELU.value == Activation.LEAKY_RELU
