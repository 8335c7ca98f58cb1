"""The op library and the choice of backend.

Every op of fastgan is a dispatcher op, ``torch.ops.fastgan.<op>``, with one row of backends: ``reference`` (plain
torch, always there), ``triton`` and, for some ops, ``native`` (compiled C++/CUDA). :func:`select` picks one per call:
the backend forced by :func:`use_backend` (or the environment variable ``FASTGAN_BACKEND``, read once at import), else
the one that was the fastest when this call was timed on this machine (:mod:`fastgan.tuning`, where its table is
loaded), else the first that supports the arguments and that measurements say to be the fastest on that device and for
them. A backend that cannot run is a reason in words, never an exception that somebody swallows.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = ["BACKENDS", "Backend", "BackendError", "call", "define", "select", "trace", "use_backend", "why_not"]

BACKENDS = ("reference", "triton", "native")
LIBRARY = torch.library.Library("fastgan", "DEF")
_ops = torch.ops.fastgan


class BackendError(RuntimeError):
    """The backend that was asked for cannot run an op; the message says why."""


def _pays_always(*_args: Any) -> bool:
    """``pays`` of a backend that is at least as fast as the reference on whatever it supports."""
    return True


@dataclass(frozen=True)
class Backend:
    """One way to compute an op.

    Attributes:
        name: one of :data:`BACKENDS`.
        run: the implementation; takes the op's arguments.
        supports: takes the op's arguments and returns ``None``, or the reason why it cannot run them.
        pays: takes the op's arguments and says whether it is expected to be at least as fast as the reference on them;
            asked of a backend that is chosen automatically and supports them, never of a forced one.
        auto_on: device types ("cpu", "cuda") where committed measurements (bench/results) show that it is at least
            as fast as the reference, so that it is chosen without being asked for.
    """

    name: str
    run: Callable[..., Any]
    supports: Callable[..., str | None]
    auto_on: frozenset[str] = frozenset()
    pays: Callable[..., bool] = _pays_always


#: What is run in place of the reference's ``run``; None from it means that it cannot, and ``run`` is.
Instead = Callable[[], Any]
#: Makes what is timed, by name.
Runs = Callable[[], dict[str, Callable[[], Any]]]


class Measured(Protocol):
    """What tables of measured times tell about a call: (op, its arguments, whether it is a gradient)."""

    def fastest(self, op: str, args: tuple[Any, ...], gradient: bool) -> Backend | None:
        """The fastest backend, if that is known."""

    def times(self, op: str, args: tuple[Any, ...], gradient: bool) -> dict[str, float] | None:
        """Seconds by backend, if they are known."""

    def torchs_time(self, op: str, args: tuple[Any, ...], gradients: str, run: Callable[[], Any]) -> float | None:
        """As :func:`torchs_time`."""

    def chain_times(self, key: tuple[Any, ...], input: torch.Tensor, runs: Runs, may_run: bool) -> dict[str, float]:
        """Seconds of each of the runs, of those that are known or, as ``may_run`` says, can be measured now."""

    def has_kernels(self, op: str, device: str) -> bool:
        """Whether another backend than the reference can run ``op`` on that device type."""


_table: dict[str, dict[str, Backend]] = {}
_keys: dict[str, Callable[..., tuple[Any, ...]]] = {}
_written: dict[str, tuple[int, ...]] = {}
_traces: list[list[tuple[str, str]]] = []
_forced: str | None = None
#: Set by fastgan.tuning: the tables where some are in use, and within ``fastgan.autotune`` what times a new call.
_tables: Measured | None = None
_measure: Callable[[str, tuple[Any, ...], bool, Instead | None], None] | None = None
#: Choices that somebody remembers although they depend on the tables: emptied when these change.
remembered: list[dict[Any, Any]] = []


def _check_name(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{origin}: unknown backend {name!r}, expected one of {', '.join(map(repr, BACKENDS))}")
    return name


if os.environ.get("FASTGAN_BACKEND"):
    _forced = _check_name(os.environ["FASTGAN_BACKEND"], "FASTGAN_BACKEND")


def always(*_args: Any) -> str | None:
    """``supports`` of the reference: it runs everything."""
    return None


def define(
    schema: str,
    fake: Callable[..., Any],
    backends: Sequence[Backend],
    batching_rule: Callable[..., Any] | None = None,
    tuning_key: Callable[..., tuple[Any, ...]] | None = None,
) -> None:
    """Define ``torch.ops.fastgan.<op>``.

    Args:
        schema: the op's schema, without defaults, as ``torch.library.Library.define`` takes it.
        fake: computes shapes, dtypes and strides of the outputs on fake tensors (compile, export, opcheck).
        backends: the op's row of backends; the order is the order of preference.
        batching_rule: how it runs under ``torch.vmap``, as ``torch.library.register_vmap`` takes it.
        tuning_key: takes the op's arguments, the first of which is a tensor, and gives what its time depends on, as
            tuples of numbers, strings, dtypes and None; calls with equal keys are supported by the same backends.
            Where it is given the op may be timed by :func:`fastgan.autotune`: arguments that it writes to must be
            optional, and are None then.
    """
    op = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(op, functools.partial(_run, op), "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{op}", fake, lib=LIBRARY)
    if batching_rule is not None:
        torch.library.register_vmap(f"fastgan::{op}", batching_rule, lib=LIBRARY)
    _table[op] = {backend.name: backend for backend in backends}
    if tuning_key is not None:
        _keys[op] = tuning_key
        arguments = getattr(_ops, op).default._schema.arguments
        _written[op] = tuple(i for i, arg in enumerate(arguments) if arg.alias_info is not None)


def call(op: str, *args: Any) -> Any:
    """``torch.ops.fastgan.<op>`` on these arguments; past torch's dispatcher, which takes as long as a small op does,
    where nothing is there that would have to see the call."""
    if not _direct(args):
        return getattr(_ops, op)(*args)
    if _measure is not None:
        _measure(op, args, False, None)
    return _run(op, *args)


def chosen_gradient(op: str, instead: Instead, *args: Any) -> Backend | None:
    """The backend that :func:`call` would run past torch's dispatcher, where ``instead`` runs if it is the reference;
    None where the dispatcher must see the call. Whoever runs it tells :func:`record`."""
    if not _direct(args):
        return None
    if _tables is None:
        return select(op, *args)
    if _measure is not None:
        _measure(op, args, True, instead)
    return select(op, *args, gradient=True)


def _direct(args: tuple[Any, ...]) -> bool:
    if torch.compiler.is_compiling() or not _unseen(args):
        return False
    for arg in args:
        if isinstance(arg, torch.Tensor) and (arg.is_meta or arg.is_neg() or arg._is_zerotensor()):
            return False
    return True


def may_leave_to_torch(*args: Any) -> bool:
    """Whether torch's own op, with its own backward, may run in place of ours on these arguments where it is faster:
    the choice of backend is automatic, nobody records it, and nothing is compiled or watched."""
    return not torch.compiler.is_compiling() and _forced is None and not _traces and _unseen(args)


@functools.cache
def _is_ordinary(kind: type) -> bool:
    """Whether values of that type are ordinary tensors or no tensors, and no symbols of a tracer."""
    if issubclass(kind, torch.Tensor):
        return kind in (torch.Tensor, torch.nn.Parameter)
    return not issubclass(kind, torch.SymInt | torch.SymFloat | torch.SymBool)


def _unseen(args: tuple[Any, ...]) -> bool:
    """Whether a call on these arguments is one of eager mode on ordinary tensors that no mode, transform, tracer or
    profiler observes."""
    return (
        all(map(_is_ordinary, map(type, args)))
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
        and not torch.autograd._profiler_enabled()
    )


def record(op: str, name: str) -> None:
    """Tell the traces that a backend ran ``op``."""
    for calls in _traces:
        calls.append((op, name))


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """What runs within is left out of the traces."""
    lengths = [(calls, len(calls)) for calls in _traces]
    try:
        yield
    finally:
        for calls, length in lengths:
            del calls[length:]


def has_tables() -> bool:
    """Whether tables of measured times are in use, and nothing is compiled."""
    return not torch.compiler.is_compiling() and _tables is not None  # no guard on what a compiler need not see


def is_measuring() -> bool:
    """Whether calls that the tables do not know are timed."""
    return _measure is not None


def torchs_time(op: str, args: tuple[Any, ...], gradients: str, run: Callable[[], Any]) -> float | None:
    """The measured seconds of ``run``, torch's own op in place of ``op`` on these arguments with the gradients of that
    name, if they are known or can be measured now."""
    return None if _tables is None else _tables.torchs_time(op, args, gradients, run)


def chain_is_faster(key: tuple[Any, ...], tensors: tuple[torch.Tensor | None, ...], runs: Runs) -> bool:
    """Whether layers, known by that key, run faster as a chain ("triton" among the runs) than one by one
    ("reference"), forward and backward: False where that is not known and cannot be measured now. The first of the
    tensors that they take is their input."""
    input = tensors[0]
    if _tables is None or input is None:
        return False
    times = _tables.chain_times(key, input, runs, _measure is not None and _direct(tensors))
    return times.keys() >= {"triton", "reference"} and times["triton"] < times["reference"]


def measured(op: str, *args: Any, gradient: bool = False) -> dict[str, float] | None:
    """The measured seconds of a call by backend, where a table in use knows them."""
    return None if _tables is None else _tables.times(op, args, gradient)


def _run(op: str, *args: Any) -> Any:
    backend = select(op, *args)
    record(op, backend.name)
    source = None
    if torch.is_grad_enabled():
        source = next((arg for arg in args if isinstance(arg, torch.Tensor) and arg.requires_grad), None)
    if source is None:
        return backend.run(*args)
    # Called by itself, as an exported program does: gradients live in the Functions outside.
    with torch.no_grad():
        result = backend.run(*args)
    outputs = _NoGradient.apply(op, source, *(result if isinstance(result, tuple) else (result,)))
    return outputs if isinstance(result, tuple) else outputs[0]


class _NoGradient(torch.autograd.Function):
    """(op, a tensor that requires a gradient, outputs) -> the outputs, whose gradient is an error."""

    @staticmethod
    def forward(ctx: Any, op: str, source: torch.Tensor, *outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.op = op
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise RuntimeError(
            f"torch.ops.fastgan.{ctx.op} has no gradient where it is called by itself, as in an exported program: "
            "train the model that was exported"
        )


def select(op: str, *args: Any, gradient: bool = False) -> Backend:
    """The backend that runs ``op`` on these arguments; ``gradient``: where torch's backward stands for the reference,
    which has a time of its own.

    Raises:
        BackendError: a backend was forced and cannot run them.
    """
    row = _table[op]
    if _forced is not None:
        reason = _reason(op, _forced, args)
        if reason is not None:
            raise BackendError(f"fastgan: {op} cannot run on the backend {_forced!r} that was asked for: {reason}")
        return row[_forced]
    if not torch.compiler.is_compiling() and _tables is not None:  # no guard: see has_tables
        fastest = _tables.fastest(op, args, gradient)
        if fastest is not None:
            return fastest
    device = next(arg.device.type for arg in args if isinstance(arg, torch.Tensor))
    for backend in row.values():
        if device in backend.auto_on and backend.supports(*args) is None and backend.pays(*args):
            return backend
    return row["reference"]


def selects(name: str, op: str, *args: Any, instead: Instead | None = None) -> bool:
    """Whether :func:`select` would take the backend of that name, for an op that not every backend has; ``instead`` is
    what runs where it would not."""
    if _forced is not None:
        return _forced == name and _reason(op, name, args) is None
    if has_tables() and _measure is not None and _direct(args):
        _measure(op, args, False, instead)
    return select(op, *args).name == name


def would_run(op: str, *args: Any) -> str | None:
    """The name of the backend that :func:`select` would take, or None where it would raise."""
    if _forced is not None:
        return _forced if _reason(op, _forced, args) is None else None
    return select(op, *args).name


def may_choose_kernels(op: str, device: str) -> bool:
    """Whether :func:`select` could take another backend than the reference for some arguments on that device type."""
    if _forced is not None:
        return _forced != "reference" and _forced in _table[op]
    if _tables is not None and _tables.has_kernels(op, device):
        return True
    return any(device in backend.auto_on for backend in _table[op].values())


def forced() -> str | None:
    """The name of the backend that is forced, if one is."""
    return _forced


def _reason(op: str, name: str, args: tuple[Any, ...]) -> str | None:
    backend = _table[op].get(name)
    return f"{op} has no {name} kernel" if backend is None else backend.supports(*args)


def why_not(op: str, *args: Any) -> dict[str, str | None]:
    """For every backend ``None`` (it can run ``op`` on these arguments) or the reason why it cannot."""
    return {name: _reason(op, name, args) for name in BACKENDS}


def op_names() -> tuple[str, ...]:
    """The names of all ops in ``torch.ops.fastgan``."""
    return tuple(_table)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force one backend inside the ``with`` block, backward passes included (they run where the block is active).

    The setting holds for the whole process, because autograd runs backward passes of CUDA tensors on threads of its
    own. Ops that the backend cannot run raise :class:`BackendError` with the reason; there is no silent fallback.

    Args:
        name: "reference", "triton" or "native".

    Raises:
        ValueError: unknown name.

    Example:
        >>> import torch, fastgan
        >>> with fastgan.use_backend("reference"):
        ...     y = fastgan.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
        >>> y.item()
        9.0
    """
    global _forced
    previous, _forced = _forced, _check_name(name, "use_backend")
    try:
        yield
    finally:
        _forced = previous


@contextlib.contextmanager
def trace() -> Iterator[list[tuple[str, str]]]:
    """Record which backend ran: yields a list that collects an ``(op, backend)`` pair per call, in order.

    Within, every call runs our op; outside, small ones may be left to torch's own (:func:`may_leave_to_torch`).
    """
    calls: list[tuple[str, str]] = []
    _traces.append(calls)
    try:
        yield calls
    finally:
        # by identity: two nested traces can hold equal lists
        _traces[:] = [other for other in _traces if other is not calls]
