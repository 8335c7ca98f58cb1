"""Compiles Triton kernels for GPUs that this machine need not have: registers, spills and shared memory of each.

``python -m tests.ops.triton_compile`` prints the table for all jobs; tests call :func:`compile_all`, which does that
in a process of its own, because this one may have loaded the kernels for the interpreter. A new kernel is one entry in
:data:`JOBS`. The convolutions' kernels are compiled by ``python -m bench audit``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.sass import tool, usage

ARCHITECTURES = (80, 90, 100)
BN = "fastgan.ops.batch_norm_act.triton_kernels:batch_norm_act_"
BCE = "fastgan.ops.bce_with_logits.triton_kernels:bce_with_logits_"
DISCRIMINATOR = "fastgan.ops.bce_with_logits.triton_kernels:discriminator_loss_"


@dataclass(frozen=True)
class Job:
    """One kernel as the launcher would compile it for some arguments.

    Attributes:
        fn: "module:function".
        signature: type of each run-time argument, "*bf16", "i32", "fp64"; ":16" behind it where the launcher finds a
            multiple of 16 (aligned pointers, most sizes and strides).
        constexprs: all other arguments: block sizes and flags, None for absent tensors, 1 for integers that are 1
            (Triton specialises on those); "tl.float32" stands for the dtype.
        num_warps: as in the launch.
        label: tells jobs of one function apart.
    """

    fn: str
    signature: dict[str, str]
    constexprs: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    label: str = ""


@dataclass(frozen=True)
class Usage:
    """What ptxas made of a job: registers per thread, bytes of stack (spilled registers) per thread, bytes of shared
    memory per block."""

    name: str
    arch: int
    registers: int
    spills: int
    shared: int

    def __str__(self) -> str:
        used = f"{self.registers:>4} registers {self.spills:>5} spilled {self.shared:>7} shared"
        return f"{self.name:62} sm_{self.arch:<4} {used}"


def _rows(prefix: str, nhwc: bool) -> dict[str, str]:
    """Strides of one [rows, C] tensor."""
    return {f"{prefix}_{i}": "i32:16" for i in ((0, 1, 2) if nhwc else (0, 1, "c"))}


def _layout(nhwc: bool, *prefixes: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Sizes and strides of NHWC tensors (one row coordinate) or NCHW ones (two), and the tile for them."""
    signature = {"channels": "i32:16", "rows": "i32:16"} | ({} if nhwc else {"inner": "i32:16"})
    constants: dict[str, Any] = {"middle": 1, "INDEX": "tl.int32"} | ({"inner": 1} if nhwc else {})
    for prefix in prefixes:
        signature |= _rows(prefix, nhwc)
        constants[f"{prefix}_c" if nhwc else f"{prefix}_2"] = 1
    return signature, constants | ({"BLOCK_R": 32, "BLOCK_C": 64} if nhwc else {"BLOCK_R": 2048, "BLOCK_C": 1})


def _batch_norm_jobs(dtype: str, nhwc: bool, activation: int) -> Iterator[Job]:
    """The four kernels that touch activations."""
    acc = "fp64" if dtype == "fp64" else "fp32"
    label = f"{dtype} {'NHWC' if nhwc else 'NCHW'} activation {activation}"
    x = {"x_ptr": f"*{dtype}:16"}
    dy = {"dy_ptr": f"*{dtype}:16"}
    vectors = dict.fromkeys(("weight_ptr", "bias_ptr", "mean_ptr", "rstd_ptr"), f"*{acc}:16")
    slope = {"negative_slope": "fp64"}
    flags = {"ACTIVATION": activation}

    signature, constants = _layout(nhwc, "x")
    partials = {"partial_mean_ptr": "*fp64:16", "partial_m2_ptr": "*fp64:16"}
    yield Job(
        f"{BN}stats_kernel", {**x, **partials, **signature, "tiles": "i32"}, {**constants, "ACC": f"tl.{_float(acc)}"},
        label=label,
    )  # fmt: skip
    signature, constants = _layout(nhwc, "x", "y")
    low = {"mean_low_ptr": None} if acc == "fp64" else {}
    pointers = {**x, "y_ptr": f"*{dtype}:16", **vectors, **({} if low else {"mean_low_ptr": f"*{acc}:16"})}
    yield Job(f"{BN}apply_kernel", {**pointers, **slope, **signature}, {**constants, **flags, **low}, label=label)
    signature, constants = _layout(nhwc, "dy", "x")
    partials = {"sum_weight_ptr": "*fp64:16", "sum_bias_ptr": "*fp64:16"}
    yield Job(
        f"{BN}backward_reduce_kernel", {**dy, **x, **vectors, **partials, **slope, **signature, "tiles": "i32"},
        {**constants, **flags}, label=label,
    )  # fmt: skip
    signature, constants = _layout(nhwc, "dy", "x", "dx")
    pointers = {**dy, **x, "dx_ptr": f"*{dtype}:16", **vectors}
    gradients = {"per_centred_ptr": f"*{acc}:16", "per_element_ptr": f"*{acc}:16"}
    yield Job(
        f"{BN}backward_apply_kernel", {**pointers, **gradients, **slope, **signature},
        {**constants, **flags, "TRAINING": True}, label=label,
    )  # fmt: skip


def _batch_norm_finish_jobs(dtype: str) -> Iterator[Job]:
    acc = "fp64" if dtype == "fp64" else "fp32"
    pointers = {"partial_mean_ptr": "*fp64:16", "partial_m2_ptr": "*fp64:16"}
    pointers |= dict.fromkeys(("mean_ptr", "rstd_ptr"), f"*{acc}:16")
    pointers |= dict.fromkeys(("running_mean_ptr", "running_var_ptr"), f"*{dtype}:16")
    sizes = dict.fromkeys(("channels", "rows", "splits", "rows_per_split"), "i32")
    scalars = {"momentum": "fp64", "eps": "fp64"}
    yield Job(
        f"{BN}stats_finish_kernel", {**pointers, **scalars, **sizes},
        {"mean_low_ptr": None, "running_mean_c": 1, "running_var_c": 1, "BLOCK_SPLITS": 16, "BLOCK_C": 64}, label=dtype,
    )  # fmt: skip
    pointers = {"sum_weight_ptr": "*fp64:16", "sum_bias_ptr": "*fp64:16"}
    pointers |= dict.fromkeys(("grad_weight_ptr", "grad_bias_ptr"), f"*{acc}:16")
    pointers |= dict.fromkeys(("rstd_ptr", "per_centred_ptr", "per_element_ptr"), f"*{acc}:16")
    yield Job(
        f"{BN}backward_finish_kernel", {**pointers, "channels": "i32", "rows": "i32", "splits": "i32"},
        {"BLOCK_SPLITS": 1024, "BLOCK_C": 1}, label=dtype,
    )  # fmt: skip


def _bce_jobs(dtype: str, target: bool, weights: bool, elementwise: bool) -> Iterator[Job]:
    """Forward with gradient, and backward."""
    acc = "fp64" if dtype == "fp64" else "fp32"
    present = {"input_ptr": True, "target_ptr": target, "weight_ptr": weights, "pos_weight_ptr": weights}
    present |= {"loss_ptr": elementwise, "gradient_ptr": True}
    pointers = {name: f"*{dtype}:16" for name, given in present.items() if given}
    pointers |= {} if elementwise else {"sum_ptr": "*fp64:16"}
    absent: dict[str, Any] = {name: None for name, given in present.items() if not given}
    absent |= {"sum_ptr": None, "tiles": 1} if elementwise else {}
    sizes = {"target_value": "fp64", "divisor": "fp64", "size": "i32:16"} | ({} if elementwise else {"tiles": "i32"})
    label = " ".join([dtype, *(["target"] if target else []), *(["weights"] if weights else [])])
    constants = {"ACC": f"tl.{_float(acc)}", "BLOCK": 1024}
    yield Job(f"{BCE}kernel", {**pointers, **sizes}, {**absent, **constants}, label=label)
    pointers = dict.fromkeys(("gradient_ptr", "grad_output_ptr", "grad_input_ptr"), f"*{dtype}:16")
    yield Job(
        f"{BCE}backward_kernel", {**pointers, "scale": "fp64", "size": "i32:16"},
        {**constants, "SCALAR": not elementwise}, label=f"{dtype} {'elementwise' if elementwise else 'scalar'}",
    )  # fmt: skip


def _discriminator_jobs(dtype: str) -> Iterator[Job]:
    """Forward with gradients, of one program and of several, and backward."""
    pointers = dict.fromkeys(
        ("real_ptr", "fake_ptr", "real_gradient_ptr", "fake_gradient_ptr"), f"*{dtype}:16"
    )  # fmt: skip
    per = dict.fromkeys(("per_real", "per_fake"), "fp64")
    sizes = per | dict.fromkeys(("real_size", "fake_size"), "i32:16")
    constants = {"ACC": f"tl.{_float('fp64' if dtype == 'fp64' else 'fp32')}", "BLOCK": 1024}
    for label, result in (("one program", dtype), ("several", "fp64")):
        signature = {**pointers, "sum_ptr": f"*{result}:16", "real_target": "fp64", **sizes, "tiles": "i32"}
        yield Job(f"{DISCRIMINATOR}kernel", signature, constants, label=f"{dtype} {label}")
    names = ("real_gradient_ptr", "fake_gradient_ptr", "grad_output_ptr", "real_output_ptr", "fake_output_ptr")
    yield Job(
        f"{DISCRIMINATOR}backward_kernel", {**dict.fromkeys(names, f"*{dtype}:16"), **sizes}, constants, label=dtype
    )


def _float(name: str) -> str:
    return {"fp32": "float32", "fp64": "float64"}[name]


def _smallest(job: Job) -> Job:
    """The job as it is for sizes and strides of 1, without optional [C] vectors: Triton makes constants of those."""
    ones = {name: 1 for name, ty in job.signature.items() if ty.startswith("i32")}
    optional = (
        "bias_ptr",
        "running_mean_ptr",
        "running_var_ptr",
        "weight_ptr",
    )
    absent = {name: None for name in job.signature if name in optional}
    signature = {name: ty for name, ty in job.signature.items() if name not in ones | absent}
    return replace(job, signature=signature, constexprs={**job.constexprs, **ones, **absent}, label=f"{job.label} ones")


_SAMPLE: list[Job] = [
    *_batch_norm_jobs("bf16", nhwc=True, activation=2),
    *_batch_norm_jobs("fp16", nhwc=False, activation=1),
    *_batch_norm_jobs("fp32", nhwc=False, activation=2),
    *_batch_norm_jobs("fp64", nhwc=True, activation=0),
    *_batch_norm_finish_jobs("bf16"),
    *_bce_jobs("bf16", target=False, weights=False, elementwise=False),
    *_bce_jobs("fp32", target=True, weights=True, elementwise=True),
    *_bce_jobs("fp64", target=True, weights=False, elementwise=False),
    *_discriminator_jobs("bf16"),
    *_discriminator_jobs("fp32"),
    *_discriminator_jobs("fp64"),
    Job(
        f"{BCE}finish_kernel",
        {"sum_ptr": "*fp64:16", "loss_ptr": "*bf16:16", "divisor": "fp64", "programs": "i32"},
        {"BLOCK": 2048},
        label="bf16",
    ),
]
JOBS = [*_SAMPLE, *(_smallest(job) for job in {job.fn: job for job in _SAMPLE if "fp64" not in job.label}.values())]


def missing_tools() -> str | None:
    """Why nothing can be compiled here, or None."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return "triton is not installed"
    tools = (tool(name, Path(spec.origin).parent) for name in ("cuobjdump", "nvdisasm"))
    return None if all(path.exists() for path in tools) else "this Triton comes without NVIDIA's tools"


def compile_all(jobs: Sequence[Job], architectures: Sequence[int], cache: Path, timeout: float = 300) -> list[Usage]:
    """Compile the jobs in a process that does not interpret.

    Args:
        cache: an empty folder, so that everything is really compiled.

    Raises:
        RuntimeError: a kernel does not compile; the compiler's words are in the message.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    request = json.dumps({"jobs": [asdict(job) for job in jobs], "architectures": list(architectures)})
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.triton_compile", "-"],
        input=request,
        env={**environment, "TRITON_CACHE_DIR": str(cache)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return [Usage(**line) for line in json.loads(done.stdout.splitlines()[-1])]


def compile_job(job: Job, arch: int) -> Usage:
    """Compile one job for ``sm_<arch>``; only in a process that does not interpret."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, name = job.fn.partition(":")
    fn = getattr(importlib.import_module(module), name)
    missing = set(fn.arg_names) ^ (job.signature.keys() | job.constexprs.keys())
    assert not missing, f"{name}: signature and constexprs differ from the arguments by {sorted(missing)}"
    constants = {
        key: getattr(tl, value[3:]) if isinstance(value, str) and value.startswith("tl.") else value
        for key, value in job.constexprs.items()
    }
    types = {arg: job.signature.get(arg, "constexpr").partition(":")[0] for arg in fn.arg_names}
    divisible = {
        (fn.arg_names.index(arg),): [["tt.divisibility", 16]] for arg, ty in job.signature.items() if ty.endswith(":16")
    }
    source = ASTSource(fn=fn, signature=types, constexprs=constants, attrs=divisible)
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": job.num_warps})
    registers, spills = usage(kernel.asm["cubin"], Path(triton.__file__).parent)
    label = f"{name.removesuffix('_kernel')} {job.label}".strip()
    return Usage(label, arch, registers, spills, kernel.metadata.shared)


def _main() -> None:
    if sys.argv[1:] != ["-"]:
        for arch in ARCHITECTURES:
            for job in JOBS:
                print(compile_job(job, arch), flush=True)
        return
    request = json.load(sys.stdin)
    jobs = [Job(**job) for job in request["jobs"]]
    print(json.dumps([asdict(compile_job(job, arch)) for arch in request["architectures"] for job in jobs]))


if __name__ == "__main__":
    _main()
