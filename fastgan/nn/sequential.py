"""``nn.Sequential`` whose convolutions and batch norms run as a chain; see :mod:`fastgan.functional.chains`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy

from fastgan import functional
from fastgan.functional import chain_rules
from fastgan.functional.chains import Norm, Options
from fastgan.nn import chain_tuning
from fastgan.nn.conv import Conv2d, ConvTranspose2d
from fastgan.nn.norm import BatchNormAct2d, FusedIdentity, FusedLeakyReLU, FusedReLU

__all__ = ["FusedSequential"]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_GLOBAL_HOOKS = tuple(f"_global{hooks}" for hooks in _HOOKS)
_NOTHING = (nn.Identity, FusedIdentity, FusedReLU, FusedLeakyReLU)


class FusedSequential(nn.Sequential):
    """:class:`torch.nn.Sequential` that runs [batch norm + activation -> convolution -> batch norm] as a chain.

    Same constructor, children, state_dict keys, indexing and results. Where a :class:`Conv2d` or
    :class:`ConvTranspose2d` is followed by a :class:`BatchNormAct2d` in training, also across the borders of nested
    Sequentials, the convolution's op takes the batch statistics of its output, and the batch norm and its activation
    are applied where the next convolution loads its input; neither that input nor the gradients before the batch norms
    are stored. So forward takes no pass over activations beyond the convolutions', but for the chain's two ends.

    Whatever may see or change a layer keeps it as it is: hooks, a replaced forward, parametrisations, subclasses, eval
    mode, an activation of the convolution, fewer than 16 values per channel, empty batches; and so do ``torch.func``,
    forward mode, tracing and export the whole chain. The result is then that of ``nn.Sequential``.

    Args:
        args: modules, or one ``OrderedDict`` of them, as in ``nn.Sequential``.
        fuse: None runs chains where :func:`fastgan.autotune` found them faster than their layers one by one (in eager
            mode), and under ``fastgan.use_backend("triton")``; True wherever they can run, False never. An attribute,
            to be set at any time.

    Shape:
        ``forward(input, first=None, beside=None)``: what the first layer takes. ``first`` is a layer that is run before
        the children as if it were one of them, for a batch norm whose parameters have another place. ``beside``
        ``[N, C, H, W]`` are further channels of what the first child takes, as if ``torch.cat`` had put them after the
        others; a chain that starts there does not store the two together.

    Example:
        >>> import torch
        >>> up = FusedSequential(
        ...     ConvTranspose2d(8, 4, 4, stride=2, padding=1, bias=False), BatchNormAct2d(4), Conv2d(4, 3, 3), fuse=True
        ... )
        >>> up(torch.randn(2, 8, 4, 4), first=BatchNormAct2d(8)).shape
        torch.Size([2, 3, 6, 6])
    """

    fuse: bool | None = None

    def __init__(self, *args: Any, fuse: bool | None = None) -> None:
        super().__init__(*args)
        self.fuse = fuse

    def __getitem__(self, idx: Any) -> Any:
        """The layer of that index; of a slice its layers, with the same ``fuse``."""
        found = super().__getitem__(idx)
        if isinstance(idx, slice):
            found.fuse = self.fuse
        return found

    def forward(
        self, input: torch.Tensor, first: nn.Module | None = None, beside: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Args: input: what the first layer takes; first: a layer to run before the children; beside: channels that the
        first child takes after the others."""
        first, beside = None if _is_default(first) else first, None if _is_default(beside) else beside
        if not self._may_chain(input):
            return super().forward(_beside(input if first is None else first(input), beside))
        layers = [*(() if first is None else (first,)), *_flat(self, self.fuse)]
        fuse, decided, measured = self.fuse, 0, self.fuse is None and chain_rules.measured()
        x, pending, i = input, None, 0
        while i < len(layers):
            layer, second, third = [*layers[i : i + 3], None, None][:3]
            ahead = beside is not None and first is not None and i == 0
            if measured and i >= decided:
                run = _run(layers[i:])
                fuse, decided = _pays(run, x, beside, ahead), i + max(len(run), 1)
            linked = not ahead and _is_link(fuse, x, beside, layer, second)
            if beside is not None and not ahead and not linked:
                x, pending, beside = _beside(_normalized(x, pending), beside), None, None
                linked = _is_link(fuse, x, None, layer, second)
            if linked:
                x, pending = _link(x, pending, beside, layer, second)
                beside = None
                i += 2
                continue
            if pending is None and _starts(x, layer) and _is_link(fuse, x, beside, second, third):
                pending = _start(x, layer)
            else:
                x, pending = layer(_normalized(x, pending)), None
            i += 1
        return _beside(_normalized(x, pending), beside)

    def _may_chain(self, input: Any) -> bool:
        if self.fuse is False or not chain_rules.ordinary(input) or not isinstance(input, torch.Tensor):
            return False
        if self.fuse is None and not chain_rules.kernels_on(input.device.type):
            return False
        return chain_rules.transparent() and not any(getattr(nn.modules.module, hooks) for hooks in _GLOBAL_HOOKS)


def _is_link(fuse: bool | None, x: Any, beside: Any, layer: Any, norm: Any) -> bool:
    """Whether the two layers, if they are there, run as one link on ``x`` and the channels beside it."""
    if fuse is False or not (_is_convolution(layer) and _is_norm(norm) and isinstance(x, torch.Tensor)):
        return False
    name, options = _geometry_of(layer)
    return chain_rules.ordinary(x, beside) and chain_rules.may_link(
        name, x, layer.weight, layer.bias, options, only_kernels=fuse is None, beside=beside
    )


def _run(layers: list[nn.Module]) -> list[nn.Module]:
    """The layers at the beginning that can be one chain: [batch norm,] then convolutions, each with a batch norm."""
    start = end = 1 if _is_norm(layers[0]) else 0
    while end + 1 < len(layers) and _is_convolution(layers[end]) and _is_norm(layers[end + 1]):
        end += 2
    return layers[:end] if end > start else []


def _pays(run: list[nn.Module], x: Any, beside: Any, ahead: bool) -> bool:
    """Whether a run is known to be faster as a chain; ``ahead``: its first layer comes before the channels beside."""
    if not run or not isinstance(x, torch.Tensor) or not chain_rules.ordinary(x, beside):
        return False

    def build(layers: Sequence[nn.Module], chained: bool) -> Any:
        first, rest = (layers[0], layers[1:]) if ahead else (None, layers)
        sequential = FusedSequential(*rest, fuse=chained)
        return lambda x, beside: sequential(x, first, beside)

    return chain_tuning.faster(run, (x, beside), build)


def _flat(sequential: nn.Sequential, fuse: bool | None) -> Iterator[nn.Module]:
    """The layers of a Sequential and of those within that nothing looks at from outside."""
    for child in sequential:
        if _is_bare(child) and type(child) in _NOTHING:
            continue
        nested = type(child) is nn.Sequential or (type(child) is FusedSequential and child.fuse in (None, fuse))
        if nested and _is_bare(child):
            yield from _flat(child, fuse)  # type: ignore[arg-type]
        else:
            yield child


def _is_bare(layer: nn.Module) -> bool:
    """Whether calling the layer runs its class's forward and nothing else."""
    if not isinstance(layer, nn.Module) or any(getattr(layer, hooks) for hooks in _HOOKS):
        return False
    return not ("forward" in layer.__dict__ or "_conv_forward" in layer.__dict__) and layer._compiled_call_impl is None


def _is_convolution(layer: nn.Module | None) -> bool:
    if not isinstance(layer, (Conv2d, ConvTranspose2d)) or type(layer) not in (Conv2d, ConvTranspose2d):
        return False
    plain = layer.activation == "none" and layer.padding_mode == "zeros"
    return plain and _is_bare(layer) and chain_rules.ordinary(layer.weight, layer.bias)


def _is_norm(layer: nn.Module | None) -> bool:
    """Whether it is a batch norm by the statistics of the batch."""
    if not isinstance(layer, BatchNormAct2d) or type(layer) is not BatchNormAct2d or not layer.training:
        return False
    tensors = layer.weight, layer.bias, layer.running_mean, layer.running_var
    return _is_bare(layer) and chain_rules.ordinary(*tensors)


def _starts(x: Any, layer: nn.Module) -> bool:
    return _is_norm(layer) and chain_rules.ordinary(x) and chain_rules.enough_values(x)


def _geometry_of(layer: Any) -> tuple[str, Options]:
    if isinstance(layer, ConvTranspose2d):
        options: Any = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return "conv_transpose2d", options
    return "conv2d", (layer.stride, layer.padding, 0, layer.groups, layer.dilation)


def _start(x: torch.Tensor, norm: Any) -> Norm:
    """The batch norm, which is pending from now on."""
    running_mean, running_var, momentum = norm._begin()
    mean, rstd = functional.batch_norm_stats(x, running_mean, running_var, momentum, norm.eps)
    return _with_statistics(norm, mean, rstd)


def _link(
    x: torch.Tensor, pending: Norm | None, beside: torch.Tensor | None, layer: Any, norm: Any
) -> tuple[torch.Tensor, Norm]:
    """The convolution after the pending batch norm, and the next one that is pending."""
    name, (stride, padding, output_padding, groups, dilation) = _geometry_of(layer)
    extra = {"output_padding": output_padding} if name == "conv_transpose2d" else {}
    link = functional.conv_transpose2d_stats if name == "conv_transpose2d" else functional.conv2d_stats
    running_mean, running_var, momentum = norm._begin()
    output, mean, rstd = link(
        x,
        layer.weight,
        layer.bias,
        stride=stride,
        padding=padding,
        groups=groups,
        dilation=dilation,
        norm=pending,
        beside=beside,
        running_mean=running_mean,
        running_var=running_var,
        momentum=momentum,
        eps=norm.eps,
        **extra,
    )
    return output, _with_statistics(norm, mean, rstd)


def _with_statistics(norm: Any, mean: torch.Tensor, rstd: torch.Tensor) -> Norm:
    return mean, rstd, norm.weight, norm.bias, norm.activation, norm.negative_slope


def _is_default(value: object) -> bool:
    """Whether it is the default None, which torch.fx makes an input of the graph."""
    return isinstance(value, Proxy) and value.node.op == "placeholder" and value.node.args == (None,)


def _beside(x: torch.Tensor, beside: torch.Tensor | None) -> torch.Tensor:
    return x if beside is None else torch.cat((x, beside), 1)


def _normalized(x: torch.Tensor, pending: Norm | None) -> torch.Tensor:
    return x if pending is None else functional.normalize_act(x, *pending)
