"""PyTorch's OpInfo samples through our functions, ModuleInfo samples through our layers."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import fastgan
from tests.checks import assert_rule, assert_tight
from tests.ops.cases import dtypes
from tests.upstream.samples import FUNCTIONS, evaluate, internal, op_info, pooled, samples

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
functions = pytest.mark.parametrize("name", list(FUNCTIONS))


@functions
def test_samples_in_float64(name, backend, device):
    count = 0
    for args, kwargs in samples(name, device, torch.float64):
        ours, theirs = (evaluate(function, args, kwargs) for function in (FUNCTIONS[name], getattr(F, name)))
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_tight(f"sample {count}, result {i}", one, other)
        count += 1
    assert count
    print(f"{count} samples of {name}")


@functions
@dtypes
def test_samples_by_the_rule(name, dtype, device):
    if dtype not in op_info(name).supported_dtypes(device.type):
        pytest.skip(f"torch has no {name} for {dtype} on {device.type}")
    ours, theirs, judged = [], [], []
    with fastgan.use_backend("reference"):
        for args, kwargs in samples(name, device, dtype):
            ours.append(evaluate(FUNCTIONS[name], args, kwargs))
            theirs.append(evaluate(getattr(F, name), args, kwargs))
            judged.append(evaluate(getattr(F, name), args, kwargs, wide=True))
    for kind, label in enumerate(("outputs", "gradients and buffers")):
        if dtype is torch.float64:
            assert_tight(label, pooled(ours, kind), pooled(judged, kind))
        else:
            assert_rule(label, pooled(ours, kind), pooled(theirs, kind), pooled(judged, kind))
    print(f"{len(ours)} samples of {name} in {dtype}")


@functions
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck], ids=["first-order", "second-order"])
def test_gradients_of_the_samples(name, check, device):
    count = 0
    for args, kwargs in samples(name, device, torch.float64):
        if args[0].numel() == 0:
            continue  # gradcheck needs a number to move
        given = [i for i, arg in enumerate(args) if isinstance(arg, torch.Tensor) and arg.requires_grad]

        def call(*leaves, args=args, kwargs=kwargs, given=given):
            values = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
            for i, leaf in zip(given, leaves, strict=True):
                values[i] = leaf
            return FUNCTIONS[name](*values, **kwargs)

        with fastgan.use_backend("reference"):
            assert check(call, [args[i].detach().requires_grad_() for i in given], fast_mode=True)
        count += 1
    assert count
    print(f"{check.__name__} of {count} samples of {name}")


#: Where ours says it in other words: a part of torch's message, our exception and our words.
OTHER_WORDS = {
    "non-positive stride": (RuntimeError, "non-positive stride|channels"),  # the sample is wrong twice
    "negative padding": (RuntimeError, "negative padding|channels"),
    "dilation should be greater than zero": (RuntimeError, "dilation"),
    "dimensional weight": (RuntimeError, "expected weight to have 4 dimensions"),
    "should be the same": ((RuntimeError, TypeError), "should be the same|must have dtype"),
    "eps must be positive": (ValueError, "eps must be a number >= 0|eps must be positive"),
}


def expected(error):
    """(exception, message) that ours raises where torch raises ``error``."""
    for words, ours in OTHER_WORDS.items():
        if words in error.error_regex:
            return ours
    return error.error_type, error.error_regex


@functions
def test_error_inputs(name, device):
    info = op_info(name)
    if info.error_inputs_func is None:
        pytest.skip(f"torch has no error inputs for {name}")
    count = 0
    for error in info.error_inputs(str(device)):
        sample = error.sample_input
        exception, message = expected(error)
        with pytest.raises(exception, match=message):
            FUNCTIONS[name](sample.input, *sample.args, **sample.kwargs)
        count += 1
    print(f"{count} error inputs of {name}")


MODULES = {
    nn.ConvTranspose2d: fastgan.nn.ConvTranspose2d,
    nn.Conv2d: fastgan.nn.Conv2d,
    nn.BatchNorm2d: lambda *args, **kwargs: fastgan.nn.BatchNormAct2d(*args, **kwargs, activation="none"),
    nn.BCEWithLogitsLoss: fastgan.nn.BCEWithLogitsLoss,
}


def module_inputs(layer, device, dtype, training):
    """(constructor input, forward input) of every ModuleInfo sample, or a skip."""
    entries = [info for info in internal("common_modules").module_db if info.module_cls is layer]
    if not entries:
        pytest.skip(f"this torch has no ModuleInfo for {layer.__name__}")
    options = {"device": str(device), "dtype": dtype, "requires_grad": True, "training": training}
    for sample in entries[0].module_inputs_func(entries[0], **options):
        if sample.forward_input is not None:
            yield sample.constructor_input, sample.forward_input


def run_module(module, forward, wide=False):
    """:func:`evaluate`, the buffers afterwards and the gradients of the parameters."""
    results = evaluate(module, forward.args, forward.kwargs, wide)
    buffers = [buffer.clone() for buffer in module.buffers() if buffer.is_floating_point()]
    if not list(module.parameters()):
        return [*results, *buffers]
    args = [copy.deepcopy(arg).double() if wide else arg for arg in forward.args]
    value = module(*args, **forward.kwargs).square().sum()
    return [*results, *buffers, *torch.autograd.grad(value, list(module.parameters()))]


@pytest.mark.parametrize("layer", list(MODULES), ids=lambda layer: layer.__name__)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_modules(layer, training, dtype, backend, device):
    results = []
    for constructor, forward in module_inputs(layer, device, dtype, training):
        modules = [make(*constructor.args, **constructor.kwargs) for make in (MODULES[layer], layer)]
        modules[0].load_state_dict(modules[1].state_dict())
        modules = [module.to(device, dtype).train(training) for module in modules]
        modules.append(copy.deepcopy(modules[1]).double())
        results.append([run_module(module, forward, wide) for module, wide in zip(modules, (0, 0, 1), strict=True)])
    assert results
    ours, theirs, judged = (list(group) for group in zip(*results, strict=True))
    for kind, label in enumerate(("outputs", "gradients")):
        if dtype is torch.float64:
            assert_tight(label, pooled(ours, kind), pooled(judged, kind))
        else:
            assert_rule(label, pooled(ours, kind), pooled(theirs, kind), pooled(judged, kind))
    print(f"{len(results)} samples of {layer.__name__}")


@pytest.mark.parametrize("layer", list(MODULES), ids=lambda layer: layer.__name__)
def test_module_error_inputs(layer):
    entries = [info for info in internal("common_modules").module_db if info.module_cls is layer]
    if not entries or entries[0].module_error_inputs_func is None:
        pytest.skip(f"torch has no module error inputs for {layer.__name__}")
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": True}
    count = 0
    for error in entries[0].module_error_inputs_func(entries[0], **options):
        sample = error.module_error_input
        if sample.constructor_input.kwargs.get("eps") == 0.0:
            continue  # documented: any eps >= 0
        exception, message = expected(error)
        with pytest.raises(exception, match=message):
            module = MODULES[layer](*sample.constructor_input.args, **sample.constructor_input.kwargs)
            module(*sample.forward_input.args, **sample.forward_input.kwargs)
        count += 1
    print(f"{count} module error inputs of {layer.__name__}")


def test_our_functions_take_torchs_arguments_in_torchs_order():
    for name, ours in FUNCTIONS.items():
        if name.startswith("conv"):
            continue  # builtins without a signature
        theirs = list(inspect.signature(getattr(F, name)).parameters)
        real = fastgan.functional.batch_norm_act if name == "batch_norm" else ours
        assert list(inspect.signature(real).parameters)[: len(theirs)] == theirs
