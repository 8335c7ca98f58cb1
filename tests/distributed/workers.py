"""What the ranks of the tests run; the last argument is the rank."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastgan
from fastgan.nn import BatchNormAct2d, SyncBatchNormAct2d, convert_sync_batchnorm

Tensors = list[torch.Tensor]


def layer_steps(
    state: dict[str, torch.Tensor],
    batches: list[list[tuple[torch.Tensor, torch.Tensor]]],
    options: dict[str, Any],
    backend: str,
    autocast: bool,
    rank: int,
) -> dict[str, Any]:
    """One backward through a forward for each (input, gradient) of this rank; then an eval forward of this rank alone,
    one rank after the other."""
    layer = SyncBatchNormAct2d(3, **options)
    layer.load_state_dict(state)
    layer.to(batches[rank][0][0].dtype if not autocast else torch.float32)
    inputs = [x.detach().requires_grad_() for x, _ in batches[rank]]
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with fastgan.use_backend(backend), fastgan.dispatch.trace() as calls:
        with context:
            outputs = [layer(x) for x in inputs]
        wanted = [*inputs, *layer.parameters()]
        grads = torch.autograd.grad(outputs, wanted, [g for _, g in batches[rank]])
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    for turn in range(dist.get_world_size()):
        if turn == rank:  # a collective here would wait for ranks that wait at the barrier
            evaluated = layer.eval()(inputs[0].detach())
        dist.barrier()
    return {
        "outputs": [output.detach() for output in outputs],
        "inputs": list(grads[: len(inputs)]),
        "parameters": list(grads[len(inputs) :]),
        "buffers": buffers,
        "eval": evaluated.detach(),
        "calls": calls,
    }


def penalty(layer_state: Any, batches: list[tuple[torch.Tensor, torch.Tensor]], activation: str, rank: int) -> Tensors:
    """Gradients of |d(output) / d(input)|² and of the output together: first and second order."""
    layer = SyncBatchNormAct2d(3, activation=activation, negative_slope=0.2, dtype=torch.float64)
    layer.load_state_dict(layer_state)
    x, seed = batches[rank]
    return second_order(layer, x, seed)


def second_order(layer: nn.Module, x: torch.Tensor, seed: torch.Tensor) -> Tensors:
    """[gradient of the input, then second-order gradients of the input and the parameters]."""
    x = x.detach().requires_grad_()
    seed = seed.detach().requires_grad_()
    parameters = list(layer.parameters())
    output = layer(x)
    first = torch.autograd.grad(output, [x, *parameters], seed, create_graph=True)
    # the sums that stand for parameters are linear in what each rank adds, as a loss is
    loss = first[0].square().mul(seed.detach()).sum() + sum(gradient.sum() for gradient in first[1:])
    second = torch.autograd.grad(loss + output.pow(3).sum(), [x, seed, *parameters])
    return [first[0].detach(), *second]


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """Collects the names of the collectives that are called."""
    seen: list[str] = []
    originals = {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "all_gather_into_tensor")}

    def record(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: (seen.append(name), originals[name](*args, **kwargs))[1]

    for name in originals:
        setattr(dist, name, record(name))
    try:
        yield seen
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def collectives(needs: tuple[bool, bool], rank: int) -> dict[str, list[str]]:
    """Names of the collectives of a forward and a backward; ``needs``: whether input and parameters do gradients."""
    with recorded() as seen:
        layer = SyncBatchNormAct2d(3).requires_grad_(needs[1])
        output = layer(torch.randn(2, 3, 2, 2, requires_grad=needs[0]))
        forward = seen.copy()
        output.sum().backward()
    return {"forward": forward, "backward": seen[len(forward) :]}


def refused(rank: int) -> list[tuple[str, str, list[str]]]:
    """(error, message, collectives called) for arguments that do not fit."""
    half_buffers = SyncBatchNormAct2d(3)
    half_buffers.running_var = None
    calls = [
        (SyncBatchNormAct2d(3), torch.randn(3)),
        (SyncBatchNormAct2d(3), torch.randn(2, 4, 2, 2)),
        (SyncBatchNormAct2d(3), torch.randn(2, 3, 2, 2).double()),
        (half_buffers, torch.randn(2, 3, 2, 2)),
    ]
    results = []
    for layer, x in calls:
        with recorded() as seen:
            try:
                layer(x)
            except Exception as error:
                results.append((type(error).__name__, str(error), seen))
    return results


def saved_sizes(rank: int) -> list[int]:
    """Elements of what forward saves beside input, weight and bias."""
    layer, x = SyncBatchNormAct2d(3), torch.randn(4, 3, 5, 5, requires_grad=True)
    own = {tensor.data_ptr() for tensor in (x, layer.weight, layer.bias)}
    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sizes


def training_forward(shapes: list[tuple[int, ...]], rank: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """(shape of the output or the error, state afterwards) for inputs of ones."""
    layer = SyncBatchNormAct2d(shapes[0][1])
    x = torch.ones(shapes[rank], requires_grad=True)
    try:
        output = layer(x)
        output.sum().backward()
        result: Any = (tuple(output.shape), tuple(x.grad.shape))
    except (ValueError, RuntimeError) as error:
        result = (type(error), str(error))
    return result, layer.state_dict()


def groups_of_one(batches: Tensors, rank: int) -> torch.Tensor:
    """The output of a layer whose group is this rank alone."""
    groups = [dist.new_group([member]) for member in range(dist.get_world_size())]
    return SyncBatchNormAct2d(3, process_group=groups[rank])(batches[rank]).detach()


def group_of_all(batches: Tensors, rank: int) -> torch.Tensor:
    """The output of a layer converted with a group of its own."""
    model = convert_sync_batchnorm(BatchNormAct2d(3), dist.new_group(list(range(dist.get_world_size()))))
    return model(batches[rank]).detach()


def gan_step(models: list[nn.Module], batches: list[Tensors], rank: int) -> list[Tensors]:
    """For each model under DistributedDataParallel: two forwards, one backward; gradients and buffers."""
    results = []
    for model in models:
        wrapped = DistributedDataParallel(model)
        outputs = [wrapped(x) for x in batches[rank]]
        sum(output.square().sum() * (1 + n) for n, output in enumerate(outputs)).backward()
        results.append([*(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())])
    return results


def compiled_step(state: dict[str, torch.Tensor], batches: Tensors, rank: int) -> list[Tensors]:
    """[of the eager layer, of the compiled one]: output, gradients, buffers."""
    results = []
    for compiled in (False, True):
        layer = SyncBatchNormAct2d(3, dtype=torch.float64)
        layer.load_state_dict(state)
        x = batches[rank].detach().requires_grad_()
        output = (torch.compile(layer, backend="aot_eager") if compiled else layer)(x)
        gradients = torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])
        results.append([output.detach(), *gradients, *layer.buffers()])
    return results
