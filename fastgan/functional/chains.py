"""Chains: [batch norm + activation -> convolution -> statistics of what it gives], link after link, of which the
activations between a batch norm and the next convolution are never stored. :class:`fastgan.nn.FusedSequential` is made
of these.

A chain starts with :func:`batch_norm_stats` (or with a link that has no batch norm before it) and ends with
:func:`normalize_act`. Statistics are outputs with gradients of their own. No ``torch.func``, no forward mode, no ONNX.
"""

from __future__ import annotations

import torch

from fastgan.functional.convolutions import Ints, Options, sizes
from fastgan.ops.batch_norm_act import chained as _chained
from fastgan.ops.batch_norm_act import checks as _bn_checks
from fastgan.ops.common import activation as _activation
from fastgan.ops.common.dtypes import autocast_low, check_floating
from fastgan.ops.common.overrides import overridable
from fastgan.ops.conv_transpose2d import geometry as _geometry
from fastgan.ops.conv_transpose2d.chain import autograd as _chain

#: A batch norm by given statistics, and its activation: (mean, rstd, weight, bias, activation, negative_slope).
Norm = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, str, float]
Result = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Vectors = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


@overridable
def conv_transpose2d_stats(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    norm: Norm | None = None,
    beside: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Result:
    """A link: batch norm by given statistics and activation, transposed convolution, batch statistics of its output.

    ``output = conv_transpose2d(act((input - mean) * rstd * gamma + beta), weight, bias)`` and, by channel of the
    output, its mean and ``1 / sqrt(var + eps)``, which the batch norm after it goes on with. Neither what the
    convolution takes nor the gradient of the output before its batch norm is stored (README.md of conv_transpose2d).

    Args:
        input: ``[N, C_in, H, W]``, from before its batch norm.
        weight, bias, stride, padding, output_padding, groups, dilation: as in :func:`conv_transpose2d`,
            ``padding="same"`` too.
        norm: ``(mean, rstd, gamma, beta, activation, negative_slope)`` of the batch norm before the convolution, or
            None without one: statistics as :func:`batch_norm_stats` or another link gave them, ``[C_in]`` of float32
            (float64 for float64); gamma and beta ``[C_in]`` or None, the input's dtype, or float32 with a float16 or
            bfloat16 input; "relu", "leaky_relu" or "none".
        beside: ``[N, C_beside, H, W]`` or None: channels that the convolution takes after those, without batch norm, as
            if ``torch.cat`` had put them there; the weight then has ``C_in + C_beside``. Without groups.
        running_mean, running_var: ``[C_out]`` of the batch norm after the convolution or None; updated in place, the
            variance unbiased.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.

    Returns:
        (output, mean, rstd): the output ``[N, C_out, H_out, W_out]`` as :func:`conv_transpose2d` gives it, and two
        vectors ``[C_out]`` of float32 (float64 for float64). An empty batch has the mean 0 and the variance 0, and
        leaves the running statistics alone.

    Under ``torch.autocast`` input, weight and bias are of the autocast dtype; an input that is not yet is normalised
    before it is cast.

    Raises:
        ValueError: an input that is not 4-D; ``beside`` with groups; one value per channel of the output; one running
            statistic without the other; what :func:`conv_transpose2d` and :func:`batch_norm_act` raise it for.
        RuntimeError: as in :func:`conv_transpose2d`; ``beside`` of another size, dtype or device than the input; a
            vector that does not have the channels' number of elements, or sits on another device.
        TypeError: a dtype that does not fit.

    Gradient order: any, with respect to input, weight, bias, ``beside`` and the four vectors of ``norm``; second and
    higher orders run through torch's ops (eager only).

    Source: Ioffe & Szegedy 2015, section 3, whose backward is cut at its reductions; a fused prologue and epilogue.

    Example:
        >>> import torch
        >>> x, w = torch.randn(2, 8, 4, 4), torch.randn(8, 3, 4, 4)
        >>> mean, rstd = batch_norm_stats(x)
        >>> before = (mean, rstd, None, None, "relu", 0.0)
        >>> y, mean, rstd = conv_transpose2d_stats(x, w, stride=2, padding=1, norm=before)
        >>> normalize_act(y, mean, rstd).shape
        torch.Size([2, 3, 8, 8])
    """
    options = (stride, padding, output_padding, groups, dilation)
    running = running_mean, running_var
    return _link("conv_transpose2d", input, weight, bias, options, norm, beside, running, momentum, eps)


@overridable
def conv2d_stats(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    norm: Norm | None = None,
    beside: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Result:
    """A link with a strided convolution: :func:`conv_transpose2d_stats` with :func:`conv2d` in the middle.

    Args:
        input: ``[N, C_in, H, W]``, from before its batch norm.
        weight, bias, stride, padding, dilation, groups: as in :func:`conv2d`, ``padding="same"`` too.
        norm, beside, running_mean, running_var, momentum, eps: as in :func:`conv_transpose2d_stats`.

    Returns:
        (output, mean, rstd): the output ``[N, C_out, H_out, W_out]`` as :func:`conv2d` gives it, and two vectors
        ``[C_out]`` of float32 (float64 for float64).

    Raises:
        ValueError, RuntimeError, TypeError: as in :func:`conv_transpose2d_stats`, of :func:`conv2d`.

    Gradient order: any, with respect to input, weight, bias, ``beside`` and the four vectors of ``norm``; second and
    higher orders run through torch's ops (eager only).

    Example:
        >>> import torch
        >>> y, mean, rstd = conv2d_stats(torch.ones(2, 3, 8, 8), torch.ones(5, 3, 4, 4), stride=2)
        >>> y.shape, mean.tolist()
        (torch.Size([2, 5, 3, 3]), [48.0, 48.0, 48.0, 48.0, 48.0])
    """
    options = (stride, padding, 0, groups, dilation)
    running = running_mean, running_var
    return _link("conv2d", input, weight, bias, options, norm, beside, running, momentum, eps)


@overridable
def batch_norm_stats(
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first half of a batch norm in training: mean and ``1 / sqrt(var + eps)`` of the batch by channel.

    Args:
        input: ``[N, C, ...]``, at least 2 dimensions.
        running_mean, running_var: ``[C]`` or None; updated in place, the variance unbiased.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.

    Returns:
        (mean, rstd): ``[C]`` of float32 (float64 for float64). An empty batch has the mean 0 and the variance 0, and
        leaves the running statistics alone.

    Raises:
        ValueError: one value per channel; one running statistic without the other.
        RuntimeError: a vector that does not have C elements, or sits on another device.
        TypeError: a dtype that does not fit.

    Gradient order: any.

    Example:
        >>> import torch
        >>> [vector.tolist() for vector in batch_norm_stats(torch.tensor([[1.0], [3.0]]), eps=0.0)]
        [[2.0], [1.0]]
    """
    name = "batch_norm_stats"
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"{name}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    check_floating("input", input)
    if input.dim() < 2:
        raise ValueError(f"{name}: expected input with at least 2 dimensions, but got size {list(input.shape)}")
    _check_after(name, input, input.shape, (running_mean, running_var), momentum, eps)
    return _chained.statistics(input, running_mean, running_var, momentum, eps)


@overridable
def normalize_act(
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    activation: str = "relu",
    negative_slope: float = 0.01,
) -> torch.Tensor:
    """The second half of a batch norm, by given statistics, and an activation: ``act((x - mean) * rstd * weight +
    bias)``.

    After :func:`batch_norm_stats` of the same input it is :func:`batch_norm_act` in training, in two steps.

    Args:
        input: ``[N, C, ...]``, at least 2 dimensions.
        mean, rstd: ``[C]`` of float32 (float64 for float64).
        weight, bias: ``[C]`` or None (1 and 0); the input's dtype, or float32 with a float16 or bfloat16 input.
        activation, negative_slope: as in :func:`batch_norm_act`.

    Returns:
        A tensor of the input's shape, dtype and strides (as ``torch.empty_like`` gives them).

    Raises:
        ValueError: unknown activation; less than 2 dimensions.
        RuntimeError: a vector that does not have C elements, or sits on another device.
        TypeError: a dtype that does not fit.

    Gradient order: any, with respect to all five tensors; second and higher orders run through torch's ops (eager
    only).

    Example:
        >>> import torch
        >>> normalize_act(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0]), torch.tensor([1.0])).tolist()
        [[0.0], [1.0]]
    """
    act = _activation.parse(activation)
    name = "normalize_act"
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"{name}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    check_floating("input", input)
    if input.dim() < 2:
        raise ValueError(f"{name}: expected input with at least 2 dimensions, but got size {list(input.shape)}")
    _check_before(name, input, (mean, rstd, weight, bias))
    return _chained.normalize(input, mean, rstd, weight, bias, act, negative_slope)


def _link(
    name: str,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    options: Options,
    norm: Norm | None,
    beside: torch.Tensor | None,
    running: tuple[torch.Tensor | None, torch.Tensor | None],
    momentum: float,
    eps: float,
) -> Result:
    """``name``: "conv_transpose2d" or "conv2d"."""
    function = f"{name}_stats"
    _geometry.check_rank(function, input)
    if input.dim() != 4:
        raise ValueError(f"expected 4D input (got {input.dim()}D input)")  # the batch norm's words
    vectors: Vectors = (None, None, None, None)
    act, slope = _activation.Activation.NONE, 0.0
    if norm is not None:
        mean, rstd, gamma, beta, activation, slope = norm
        act = _activation.parse(activation)
        check_floating("input", input)
        vectors = (mean, rstd, gamma, beta)
        _check_before(function, input, vectors)
    low, beside, weight, bias = autocast_low(input, beside, weight, bias)
    if norm is not None and low.dtype is not input.dtype:
        (low,) = autocast_low(_chained.normalize(input, mean, rstd, gamma, beta, act, slope))
        vectors, act = (None, None, None, None), _activation.Activation.NONE
    _geometry.check_tensors(function, low, weight, bias)
    if beside is not None:
        _check_beside(function, beside, low, options[3])
    shape = torch.Size((low.shape[0], low.shape[1] + (0 if beside is None else beside.shape[1]), *low.shape[2:]))
    geometry, size = sizes(name, shape, weight, bias, options)
    channels = weight.shape[1] * geometry.groups if name == "conv_transpose2d" else weight.shape[0]
    _check_after(function, low, torch.Size((low.shape[0], channels, *size)), running, momentum, eps)
    return _chain.link(name, low, vectors, beside, weight, bias, running, size, geometry, momentum, eps, act, slope)


def _check_beside(function: str, beside: torch.Tensor, input: torch.Tensor, groups: int) -> None:
    """The channels fit beside the input's."""
    if not isinstance(beside, torch.Tensor):
        raise TypeError(f"{function}(): argument 'beside' must be Tensor, not {type(beside).__name__}")
    if groups != 1:
        raise ValueError(f"{function}: beside must be None where there are groups, but groups is {groups}")
    if beside.dtype is not input.dtype or beside.device != input.device:
        raise RuntimeError(
            f"{function}: expected beside to be {input.dtype} on {input.device} as input is, but it is {beside.dtype} "
            f"on {beside.device}"
        )
    if beside.dim() != 4 or (beside.shape[0], *beside.shape[2:]) != (input.shape[0], *input.shape[2:]):
        raise RuntimeError(
            f"{function}: Sizes of tensors must match except in dimension 1, but input has size {list(input.shape)} "
            f"and beside {list(beside.shape)}"
        )


def _check_before(function: str, input: torch.Tensor, vectors: Vectors) -> None:
    """The batch norm by given statistics fits to what it is applied to."""
    mean, rstd, weight, bias = vectors
    _bn_checks.check_statistics(function, mean, rstd, input)
    _bn_checks.check_vectors(function, {"weight": weight, "bias": bias}, input, input.shape[1])


def _check_after(
    function: str,
    like: torch.Tensor,
    size: torch.Size,
    running: tuple[torch.Tensor | None, torch.Tensor | None],
    momentum: float,
    eps: float,
) -> None:
    """Statistics of a tensor of this size, in dtype and on the device of ``like``, may be taken."""
    running_mean, running_var = running
    _bn_checks.check_numbers(function, momentum, eps)
    _bn_checks.check_vectors(function, {"running_mean": running_mean, "running_var": running_var}, like, size[1])
    _bn_checks.check_not_differentiable(function, *running)
    _bn_checks.check_pair(*running)
    _bn_checks.check_more_than_one(size, size[1])
