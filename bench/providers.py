"""Who takes part: a provider is a name and a function from a case's work to a callable, or the reason for none."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.case import Call, Results, Setting, Work, keep
from fastgan import dispatch
from fastgan.ops.common import triton_runtime


class UnavailableError(RuntimeError):
    """The provider cannot run the case here; the message says why."""


@dataclass(frozen=True)
class Provider:
    """``ours``: what it raises, apart from a refusal, is a wrong result and not a reason. ``warm``: calls before it is
    timed."""

    name: str
    make: Callable[[Work, Setting], Call]
    ours: bool = False
    warm: int = 0


def _fastgan(backend: str) -> Callable[[Work, Setting], Call]:
    def make(work: Work, setting: Setting) -> Call:
        call = work.fastgan()
        if backend == "auto":
            return call
        if backend == "triton" and triton_runtime.interpreting():
            raise UnavailableError("TRITON_INTERPRET=1: the interpreter's speed says nothing")

        def run() -> Results:
            with dispatch.use_backend(backend):
                return call()

        return run

    return make


def _compiled(mode: str) -> Callable[[Work, Setting], Call]:
    """``mode``: of torch.compile."""

    def make(work: Work, setting: Setting) -> Call:
        # The closures of all cases share their code, of which Dynamo keeps a few compiled versions only.
        torch._dynamo.reset()
        options = {**torch._inductor.list_mode_options(mode), "cpp.threads": torch.get_num_threads()}
        return work.torch(functools.partial(torch.compile, fullgraph=True, options=options))

    return make


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        installed = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not import: {error}"
        raise UnavailableError(f"{package} {installed}") from None


def _inplace_abn(work: Work, setting: Setting) -> Call:
    if work.options.get("op") != "batch_norm_act" or work.bind is None:
        raise UnavailableError("inplace-abn has batch norm + activation only")
    theirs, known = _module("inplace_abn", "inplace-abn"), work.options
    if known["activation"] != "leaky_relu":
        raise UnavailableError(f"inplace-abn has no {known['activation']}: it inverts the activation")

    def run(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        # It overwrites its input, which in a network is its own to overwrite; and it scales by |weight| + eps.
        scale, eps = weight - known["eps"], known["eps"]
        return theirs.inplace_abn(input.clone(), scale, bias, mean, var, True, 0.1, eps, "leaky_relu", known["slope"])

    return work.bind(run)


def _flag_gems(work: Work, setting: Setting) -> Call:
    if setting.device.type != "cuda":
        raise UnavailableError("flag-gems runs on a GPU only")
    gems, call = _module("flag_gems", "flag-gems"), work.torch(keep)

    def run() -> Results:
        with gems.use_gems():
            return call()

    return run


TORCH = Provider("torch", lambda work, setting: work.torch(keep))
# By torch.compile's mode. "max-autotune" is Inductor's without CUDA graphs of its own: the harness captures everybody's
# call in one in the same way, and what it times without graphs has none.
COMPILED: dict[str, Provider] = {
    "default": Provider("torch.compile", _compiled("default"), warm=2),
    "max-autotune": Provider("torch.compile max-autotune", _compiled("max-autotune-no-cudagraphs"), warm=2),
}
PROVIDERS: tuple[Provider, ...] = (
    *(Provider(name, _fastgan(name), ours=True) for name in ("auto", *dispatch.BACKENDS)),
    *COMPILED.values(),
    Provider("inplace-abn", _inplace_abn),
    Provider("flag-gems", _flag_gems),
)


def provider(name: str) -> Provider:
    """The provider of that name, torch included."""
    return next(p for p in (TORCH, *PROVIDERS) if p.name == name)
