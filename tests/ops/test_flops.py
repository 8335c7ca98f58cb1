"""torch.utils.flop_counter counts our convolutions as it counts torch's."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.models.test_twins import PAIRS, make_inputs
from tests.ops.cases import CONV_CASES, conv_functions, directions

#: torch counts the weight gradient of a grouped convolution as if every channel met every other.
UNGROUPED = [case for case in CONV_CASES if case.groups == 1]


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@directions
@pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
def test_forward(case, transposed):
    tensors = case.tensors(transposed, torch.randn)
    ours, theirs = (flops(lambda f=f: f(*tensors, **case.options(transposed))) for f in conv_functions(transposed))
    assert ours == theirs > 0


@directions
@pytest.mark.parametrize("case", UNGROUPED, ids=lambda case: case.name)
def test_forward_and_backward(case, transposed):
    tensors = [tensor.requires_grad_() for tensor in case.tensors(transposed, torch.randn)]
    ours, theirs = (
        flops(lambda f=f: f(*tensors, **case.options(transposed)).sum().backward()) for f in conv_functions(transposed)
    )
    assert ours == theirs > 0


@directions
def test_an_activation_costs_nothing(transposed):
    """As torch's, which counts matrix products alone."""
    tensors = [tensor.requires_grad_() for tensor in UNGROUPED[0].tensors(transposed, torch.randn)]
    ours = conv_functions(transposed)[0]
    plain, activated = (
        flops(lambda act=act: ours(*tensors, **UNGROUPED[0].options(transposed), activation=act).sum().backward())
        for act in ("none", "tanh")
    )
    assert plain == activated > 0


@directions
def test_the_weight_gradient_of_groups(transposed):
    """As many operations as forward has, and as the input's gradient has."""
    case = next(case for case in CONV_CASES if case.name == "groups")
    tensors = [tensor.requires_grad_() for tensor in case.tensors(transposed, torch.randn)]
    ours = conv_functions(transposed)[0]
    forward = flops(lambda: ours(*tensors, **case.options(transposed)))
    assert flops(lambda: ours(*tensors, **case.options(transposed)).sum().backward()) == 3 * forward


@pytest.mark.parametrize("name", PAIRS)
def test_models(name):
    mine, twin = (make() for make in PAIRS[name])
    inputs = [tensor[0] for tensor in make_inputs(mine)]
    inputs[0] = inputs[0].float().requires_grad_()
    ours, theirs = (flops(lambda net=net: net(*inputs).sum().backward()) for net in (mine, twin))
    assert ours == theirs > 0


def test_no_warning_without_triton():
    """torch's module warns that it cannot count Triton kernels; importing fastgan is not the time for it."""
    code = "import sys; sys.modules['triton'] = None; import fastgan, torch; print('flop_counter' in str(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n" and done.stderr == ""
    assert not logging.getLogger("torch.utils.flop_counter").disabled
