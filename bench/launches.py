"""The launches that the audit looks at: which layers, and what the launcher makes of them on a GPU that need not be
here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from fastgan.ops.common.activation import Activation
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from fastgan.ops.conv_transpose2d.geometry import Geometry

OPS = ("conv_transpose2d", "conv2d", "conv2d_weight")
#: A chain's links, with the batch norm and activation before them, and the two gradients of each.
LINKS = tuple(f"{op}_stats{part}" for op in OPS[:2] for part in ("", " grad_input", " grad_weight"))
#: What the launcher takes a GPU of each architecture for: an A100, an H100, a B200.
MACHINES = {
    80: tiles.Machine(8, 108, 163 << 10),
    90: tiles.Machine(),
    100: tiles.Machine(10, 148, 227 << 10),
}
#: DCGAN's: (small image's channels, big one's, small one's side); k4 s2 p1.
LAYERS = ((512, 256, 2), (256, 128, 4), (128, 64, 8), (64, 3, 16))
_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp64": torch.float64,
}


@dataclass(frozen=True)
class Case:
    """One of the maps between a small image of ``size`` squared with ``cs`` channels and a big one of twice the side
    with ``cb``, k4 s2 p1; the image maps also with an ``epilogue``, which is a bias and LeakyReLU; links also at the
    ``start`` of a chain, where no batch norm is before them, and with ``beside`` more channels of what they take, in a
    tensor of their own."""

    op: str
    cs: int
    cb: int
    size: int
    batch: int = 128
    dtype: str = "bf16"
    nhwc: bool = True
    epilogue: bool = False
    start: bool = False
    beside: int = 0

    @property
    def name(self) -> str:
        sides = f"{self.size}x{self.size}→{2 * self.size}x{2 * self.size}"
        end = " with bias and activation" if self.epilogue else ""
        end += (" at the start" if self.start else "") + (f" with {self.beside} beside" if self.beside else "")
        kind = f"{self.dtype} {'NHWC' if self.nhwc else 'NCHW'}"
        return f"{self.op} {self.cs}→{self.cb}, {sides}, {kind}, batch {self.batch}{end}"

    @property
    def bare(self) -> tuple[Case, ...]:
        """A link's convolution or gradient without what a batch norm is to it; beside the gradient of a weight, both of
        the channels beside."""
        name, _, part = self.op.partition("_stats")
        other = OPS[1] if name == OPS[0] else OPS[0]
        alone = replace(self, op={"": name, " grad_input": other, " grad_weight": OPS[2]}[part], beside=0)
        if not (self.beside and part == " grad_weight"):
            return (alone,)
        rest = replace(alone, **{"cs" if name == OPS[0] else "cb": self.beside})
        return alone, rest, replace(rest, op=other)

    @property
    def passes_over(self) -> float:
        """Bytes of one pass over the activations of a link: that of its output, or the mean of both that a gradient of
        the input reads."""
        small, big = (
            c * s * s * self.batch * self.itemsize for c, s in ((self.cs, self.size), (self.cb, 2 * self.size))
        )
        if self.op.endswith("grad_input"):
            return (small + big) / 2
        return big if self.op.startswith(OPS[0]) else small

    @property
    def itemsize(self) -> int:
        return _DTYPES[self.dtype].itemsize

    @property
    def few(self) -> bool:
        """Whether taps and channels are columns of one product because the channels are few."""
        return self.cb <= 8


#: Those whose work is counted, and those that are only compiled: other batches, types and layouts, and sizes of 1, of
#: which Triton makes constants.
COUNTED = (
    *(Case(op, *layer) for layer in LAYERS for op in OPS),
    *(Case(op, *layer) for layer in LAYERS[:3] for op in LINKS),
    *(Case(op, 128, 128, 7, start=True, beside=1) for op in LINKS[:3]),  # the first of the cGAN's G
)
COMPILED = (
    *(Case(op, *layer, batch=1024) for layer in LAYERS for op in OPS),
    *(Case(op, *layer, dtype=name) for name in ("fp16", "fp32", "tf32", "fp64") for layer in LAYERS[::3] for op in OPS),
    *(
        Case(op, *layer, dtype=name, epilogue=True)
        for name in ("bf16", "fp16", "fp32")
        for layer in LAYERS[::3]
        for op in OPS[:2]
    ),
    *(Case("conv2d_act_backward", *layer, dtype=name) for name in ("bf16", "fp32") for layer in LAYERS[2:]),
    *(Case(op, *layer, nhwc=False) for layer in LAYERS[::3] for op in OPS),
    *(Case(op, 1, 16, 1, batch=1, dtype="fp32") for op in OPS),
    *(Case(op, 64, 3, 1, batch=8) for op in OPS),
    *(Case(op, 64, 8, 16) for op in (*OPS, "conv2d_act_backward")),
    *(Case(op, *layer, batch=1024) for layer in LAYERS[:3:2] for op in LINKS),
    *(Case(op, *LAYERS[2], dtype=name) for name in ("fp16", "fp32") for op in LINKS),
    *(Case(op, *LAYERS[2], dtype=name) for name in ("tf32", "fp64") for op in LINKS[::3]),
    *(Case(op, *LAYERS[2], dtype="fp64") for op in LINKS[1::3]),
    *(Case(op, *LAYERS[2], nhwc=False) for op in LINKS[:3]),
    *(Case(op, *LAYERS[0], batch=8) for op in LINKS[:2]),  # splits sums
    *(Case(op, *LAYERS[2], batch=n, start=True) for n in (128, 1024) for op in LINKS[3:]),  # D's first
    *(Case(op, *LAYERS[2], beside=2, dtype=name) for name in ("bf16", "fp32") for op in LINKS[::3]),
    *(Case(op, *LAYERS[2], beside=2, dtype=name) for name in ("bf16", "fp32", "fp64") for op in LINKS[2::3]),
)


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid, and its arguments and options by name."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]


def operands(case: Case, device: str) -> tuple[Any, ...]:
    """The launcher's arguments."""
    geometry = Geometry((2, 2), (1, 1), (1, 1), 1)
    form = torch.channels_last if case.nhwc else torch.contiguous_format

    def tensor(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=_DTYPES[case.dtype], device=device).contiguous(memory_format=form)

    small = tensor(case.batch, case.cs, case.size, case.size)
    big = tensor(case.batch, case.cb, 2 * case.size, 2 * case.size)
    if case.op == "conv2d_act_backward":
        output = torch.empty_like(small)
        end = Activation.LEAKY_RELU, 0.2
        return small, output, big, tensor(case.cs, case.cb, 4, 4), True, tuple(big.shape[2:]), (4, 4), geometry, *end
    if case.op == "conv2d_weight":
        return small, big, (4, 4), geometry
    if case.op in LINKS:
        up = case.op.startswith(OPS[0])
        size = case.size if up else 2 * case.size
        beside = tensor(case.batch, case.beside, size, size) if case.beside else None
        channels = (case.cs + case.beside, case.cb) if up else (case.cs, case.cb + case.beside)
        return _link(case, small, big, beside, tensor(*channels, 4, 4), geometry)
    source, to = (small, big) if case.op == "conv_transpose2d" else (big, small)
    bias = torch.empty(to.shape[1], dtype=to.dtype, device=device) if case.epilogue else None
    activation = Activation.LEAKY_RELU if case.epilogue else Activation.NONE
    return source, tensor(case.cs, case.cb, 4, 4), bias, tuple(to.shape[2:]), geometry, activation, 0.2


def _link(
    case: Case,
    small: torch.Tensor,
    big: torch.Tensor,
    beside: torch.Tensor | None,
    weight: torch.Tensor,
    geometry: Geometry,
) -> Any:
    """The arguments of a link's launcher."""
    name, _, part = case.op.partition("_stats")
    source, to = (small, big) if name == "conv_transpose2d" else (big, small)
    accumulate = accumulate_type(small.dtype)

    def vectors(like: torch.Tensor, count: int) -> list[torch.Tensor]:
        return [torch.empty(like.shape[1], dtype=accumulate, device=like.device) for _ in range(count)]

    end = Activation.LEAKY_RELU, 0.2
    norm = [None] * 4 if case.start else vectors(source, 4)
    if not part:
        running = vectors(to, 2)
        return (
            name,
            source,
            *norm,
            beside,
            weight,
            None,
            *running,
            tuple(to.shape[2:]),
            *geometry,
            0.1,
            1e-5,
            *end,
        )
    of_weight = part == " grad_weight"
    wanted = not of_weight, of_weight and beside is not None, of_weight  # both of what is beside are one launch
    gradients = torch.empty_like(to), *vectors(to, 2), to, *vectors(to, 2)
    return name, *gradients, source, *norm, beside, weight, *wanted, *geometry, *end


def launcher(case: Case) -> Any:
    """What launches the case."""
    from fastgan.ops.conv_transpose2d import triton_launch
    from fastgan.ops.conv_transpose2d.chain import triton_launch as links

    if case.op in LINKS:
        return links.forward if case.op.endswith("_stats") else links.backward
    return getattr(triton_launch, case.op)


def run(case: Case, device: str) -> None:
    """Calls the launcher."""

    convolution = torch.backends.cudnn.conv
    before = convolution.fp32_precision
    convolution.fp32_precision = "tf32" if case.dtype == "tf32" else "ieee"
    try:
        launcher(case)(*operands(case, device))
    finally:
        convolution.fp32_precision = before


def recorded(case: Case, arch: int) -> list[Launch]:
    """What the launcher launches on a GPU of this architecture; only in a process that does not interpret."""
    from triton.runtime.jit import JITFunction

    from fastgan.ops.conv_transpose2d import triton_arguments, triton_plans

    launches = []

    def record(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        launches.append(Launch(kernel, grid, dict(zip(kernel.arg_names, args, strict=False)) | options))

    real, machine = JITFunction.run, triton_arguments.machine
    JITFunction.run, triton_arguments.machine = record, lambda _: MACHINES[arch]
    triton_plans.forget()
    try:
        run(case, "meta")
    finally:
        JITFunction.run, triton_arguments.machine = real, machine
        triton_plans.forget()
    return launches
