"""What is asked of one sample: results by the rule, gradients of first and second order, forward-mode derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from tests.checks import assert_rule, assert_tight, assert_torch_layout
from tests.upstream.samples import LAYOUTS, Sample, lay_out

#: What ours refuses of what torch takes, in words of the message: dtypes, and an empty vector as an image.
REFUSALS = ("must have dtype float64, float32, float16 or bfloat16", "expected input with at least 2 dimensions")
#: How a function without forward-mode derivatives says so, in lower case.
NO_FORWARD_MODE = ("forward ad", "forward mode ad", "forward-mode", "jvp")


def one_line(error: object) -> str:
    """The message without line breaks."""
    return " ".join(str(error).split())


def evaluate(function: Callable[..., torch.Tensor], arguments: Any, layout: str) -> dict[str, torch.Tensor]:
    """The output, the gradients, and the other tensors afterwards (running statistics), by name."""
    args, kwargs = arguments
    output = function(*args, **kwargs)
    tensors = {
        keystr(path): value for path, value in tree_flatten_with_path(arguments)[0] if isinstance(value, torch.Tensor)
    }
    leaves = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    others = {f"{name} afterwards": tensor for name, tensor in tensors.items() if not tensor.requires_grad}
    gradients: dict[str, torch.Tensor] = {}
    if output.requires_grad:
        # the same numbers in every dtype, not symmetric
        seed = torch.arange(output.numel(), device=output.device).remainder(7).sub(2).view(output.shape)
        seed = seed.to(output.dtype)
        placed = LAYOUTS[layout](seed)
        found = torch.autograd.grad(
            output, list(leaves.values()), seed if placed is None else placed, materialize_grads=True
        )
        gradients = {f"gradient by {name}": tensor for name, tensor in zip(leaves, found, strict=True)}
    return {"output": output.detach(), **gradients, **others}


def compare(sample: Sample, layout: str) -> Iterator[tuple[str, str | None]]:
    """(name, None or what is wrong) of every tensor of a sample."""
    ours = evaluate(sample.ours, lay_out(sample, layout), layout)
    theirs = evaluate(sample.theirs, lay_out(sample, layout), layout)
    judged = evaluate(sample.theirs, lay_out(sample, layout, wide=True), layout)
    if ours.keys() != theirs.keys():
        yield "results", f"{list(ours)}, torch has {list(theirs)}"
        return
    for name, tensor in ours.items():
        yield name, complaint(name, tensor, theirs[name], judged[name])
    if layout in ("contiguous", "channels_last"):  # the memory formats that torch promises to keep
        yield "strides", _said(lambda: assert_torch_layout("output", ours["output"], theirs["output"]))


def complaint(name: str, ours: torch.Tensor, theirs: torch.Tensor, judge: torch.Tensor) -> str | None:
    """What the rule has against a tensor, or None; whole numbers are to be equal."""
    if not ours.is_floating_point():
        return None if torch.equal(ours, theirs) else f"{name}: {ours}, torch gives {theirs}"
    if ours.dtype is torch.float64:
        return _said(lambda: assert_tight(name, ours, judge))
    return _said(lambda: assert_rule(name, ours, theirs, judge))


def _said(check: Callable[[], None]) -> str | None:
    try:
        check()
    except AssertionError as error:
        return one_line(error)
    return None


def leaves_and_call(
    sample: Sample, layout: str, function: Callable[..., torch.Tensor]
) -> tuple[list[torch.Tensor], Callable[..., torch.Tensor]]:
    """The tensors that require a gradient, and a function of them alone that changes none of its other arguments."""
    flat, spec = tree_flatten(lay_out(sample, layout))
    given = [i for i, value in enumerate(flat) if isinstance(value, torch.Tensor) and value.requires_grad]

    def call(*leaves: torch.Tensor) -> torch.Tensor:
        values = [value.clone() if isinstance(value, torch.Tensor) else value for value in flat]
        for i, leaf in zip(given, leaves, strict=True):
            values[i] = leaf
        args, kwargs = tree_unflatten(values, spec)
        return function(*args, **kwargs)

    return [flat[i] for i in given], call


def gradients_are_right(sample: Sample, layout: str, check: Callable[..., bool]) -> str | None:
    """``check`` is gradcheck or gradgradcheck; None, or what is wrong."""
    leaves, call = leaves_and_call(sample, layout, sample.ours)
    try:
        check(call, leaves, fast_mode=True)
    except Exception as error:
        return f"{check.__name__}: {' '.join(str(error).split())[:200]}"
    return None


def tangent(sample: Sample, layout: str, function: Callable[..., torch.Tensor]) -> torch.Tensor:
    """The forward-mode derivative along fixed directions."""
    leaves, call = leaves_and_call(sample, layout, function)
    with forward_ad.dual_level():
        duals = []
        for leaf in leaves:
            direction = torch.linspace(-1, 2, leaf.numel(), dtype=leaf.dtype, device=leaf.device).view(leaf.shape)
            duals.append(forward_ad.make_dual(leaf.detach(), direction))
        output = forward_ad.unpack_dual(call(*duals))
        return torch.zeros_like(output.primal) if output.tangent is None else output.tangent.clone()


def forward_mode(sample: Sample, layout: str, function: Callable[..., torch.Tensor]) -> torch.Tensor | str:
    """:func:`tangent`, or the message by which the function says that it has none."""
    try:
        return tangent(sample, layout, function)
    except (RuntimeError, NotImplementedError) as error:
        message = one_line(error)
        if any(words in message.lower() for words in NO_FORWARD_MODE):
            return message
        raise
