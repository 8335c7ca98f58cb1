"""Where the tests run: on the GPU if there is one, else on the CPU with Triton's interpreter."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # before torch is imported: the workers share the cores, and threads that wait for each other cost more than they do
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # and where a test asks for more of them, one that has nothing to do leaves the core to the one it waits for
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

try:
    from hypothesis.internal.conjecture import providers
except ModuleNotFoundError:  # a GPU machine that cannot install it runs the tests that do without
    providers = None

CUDA = torch.cuda.is_available()
if not CUDA:
    # before any kernel is imported: Triton decides then whether it compiles or interprets
    os.environ["TRITON_INTERPRET"] = "1"

import fastgan  # noqa: E402
from tests import interpreter  # noqa: E402
from tests.checks import set_seed  # noqa: E402

if hasattr(providers, "_get_local_constants"):
    # hypothesis takes some numbers from the source of the modules that are loaded, and which these are depends on the
    # tests that ran before; a run is to repeat the last one
    _no_constants = type(providers._local_constants)()
    providers._get_local_constants = lambda: _no_constants


if not CUDA:
    interpreter.leave_out_unread_checks()
    interpreter.patch_the_language_once()
    interpreter.look_up_types_once()

gc.collect()
gc.freeze()  # what is loaded by now stays; the garbage collector need not look through it again and again


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """pyproject.toml's time limit is no unknown option where pytest-timeout, which keeps it, is not installed."""
    if not pluginmanager.hasplugin("timeout"):
        parser.addini("timeout", "the limit of a test, which nobody keeps without pytest-timeout")


def pytest_configure(config: pytest.Config) -> None:
    """Nor are the marks of the two plugins unknown without them."""
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout(seconds): read by pytest-timeout")
    if not config.pluginmanager.hasplugin("xdist"):
        config.addinivalue_line("markers", "xdist_group(name): read by pytest-xdist")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers share the tests the longest come first, so that none ends long after the others: those that were
    given a time of their own, then those marked as slow."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(
            key=lambda item: (item.get_closest_marker("timeout") is None, item.get_closest_marker("slow") is None)
        )


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Every test starts from the same numbers and with TF32 off."""
    set_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """What the compiled kernels do not take (float64 convolutions, say) is a skip with the reason they give."""
    try:
        return (yield)
    except fastgan.dispatch.BackendError as error:
        if pyfuncitem.funcargs.get("backend") != "native":
            raise
        pytest.skip(str(error))


@pytest.fixture(params=["reference", "triton", "native"])
def backend(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """Runs the test once per backend, forced; nothing else may run an op meanwhile."""
    from tests.checks import backend_reason

    name = request.param
    reason = backend_reason(name, device)
    if reason is not None:
        pytest.skip(reason)
    with fastgan.use_backend(name), fastgan.dispatch.trace() as calls:
        yield name
    wrong = [call for call in calls if call[1] != name]
    assert not wrong, f"asked for {name}, but these ran: {wrong}"


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set that the native CPU kernels are compiled for and that runs here."""
    from fastgan.native import native_reason

    if native_reason("cpu") is not None:
        pytest.skip(str(native_reason("cpu")))
    ops = torch.ops.fastgan_native
    best = ops.cpu_isa()
    wanted = ("portable", "avx2", "avx512").index(request.param)
    if wanted > best:
        pytest.skip(f"this processor has no {request.param}, or the kernels are not compiled for it")
    ops.set_cpu_isa(wanted)
    yield request.param
    ops.set_cpu_isa(best)
