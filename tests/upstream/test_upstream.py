"""PyTorch's OpInfo and ModuleInfo samples computed by fastgan: the table of ``python -m tests.upstream``, as tests."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F

import fastgan
from tests.upstream import judge, routing
from tests.upstream.__main__ import report
from tests.upstream.routing import Route, routed
from tests.upstream.samples import DROP_INS, FUNCTIONS, SUBJECTS, module_info, op_info, samples
from tests.upstream.table import rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
functions = pytest.mark.parametrize("name", FUNCTIONS)
# the functions of many samples and slow gradgradchecks, or slow in Triton's interpreter
SLOW = {name: pytest.param(name, marks=pytest.mark.slow) for name in ("F.conv_transpose2d", "F.conv2d")}


@pytest.mark.parametrize("subject", [SLOW.get(name, name) for name in SUBJECTS])
def test_every_row_of_the_table(subject, device):
    table = list(rows(device, [subject]))
    failures = [f"{row.dtype} {row.layout}: {text}" for row in table for text in row.failures]
    assert not failures
    dtypes = {row.dtype for row in table if row.compared}
    assert dtypes == {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    print(f"{sum(row.compared for row in table)} comparisons in {len(table)} rows of {subject}")


@pytest.mark.parametrize("subject", [SLOW.get(name, name) for name in SUBJECTS if not name.startswith("nn.")])
def test_samples_on_every_backend(subject, backend, device):
    """In float64: in float32 a backend that adds in another order than torch may lose where torch is lucky, and most
    samples are a handful of numbers."""
    count = 0
    for sample in samples(subject, device, torch.float64):
        try:
            complaints = [text for _, text in judge.compare(sample, "contiguous") if text is not None]
        except ValueError as error:
            assert any(words in str(error) for words in judge.REFUSALS)
            continue
        assert not complaints, sample.name
        count += 1
    assert count
    print(f"{count} samples of {subject} on {backend}")


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
        with Route() as route, pytest.raises(exception, match=message):
            getattr(F, name)(sample.input, *sample.args, **sample.kwargs)
        assert route.calls == {name: 1}
        count += 1
    print(f"{count} error inputs of {name}")


@pytest.mark.parametrize("name", DROP_INS)
def test_module_error_inputs(name):
    info = module_info(name)
    if info.module_error_inputs_func is None:
        pytest.skip(f"torch has no module error inputs for {name}")
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": True}
    count = 0
    for error in info.module_error_inputs_func(info, **options):
        sample = error.module_error_input
        if sample.constructor_input.kwargs.get("eps") == 0.0:
            continue  # documented: any eps >= 0
        exception, message = expected(error)
        with pytest.raises(exception, match=message):
            module = DROP_INS[name](*sample.constructor_input.args, **sample.constructor_input.kwargs)
            module(*sample.forward_input.args, **sample.forward_input.kwargs)
        count += 1
    print(f"{count} module error inputs of {name}")


def test_our_functions_take_torchs_arguments_in_torchs_order():
    """The convolutions are builtins without a signature."""
    for ours, theirs in (
        (fastgan.functional.batch_norm_act, F.batch_norm),
        (fastgan.functional.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
    ):
        names = list(inspect.signature(theirs).parameters)
        assert list(inspect.signature(ours).parameters)[: len(names)] == names


def test_a_call_that_is_not_routed_is_an_error():
    with pytest.raises(AssertionError, match="0 calls were routed, expected 1"):
        routed(torch.relu)(torch.ones(2))


@pytest.mark.parametrize("training", [True, False])
def test_both_batch_norms_of_torch_are_routed(training):
    x, (weight, bias, mean) = torch.randn(4, 3, 5), torch.randn(3, 3)
    var = torch.rand(3) + 0.5
    with fastgan.dispatch.trace() as calls:
        one = routed(F.batch_norm)(x, mean.clone(), var.clone(), weight, bias, training, 0.3, 1e-3)
        other = routed(torch.batch_norm)(x, weight, bias, mean.clone(), var.clone(), training, 0.3, 1e-3, True)
    assert [op for op, _ in calls] == ["batch_norm_act_train" if training else "batch_norm_act_eval"] * 2
    assert torch.equal(one, other)


@pytest.mark.parametrize("reduction", routing.REDUCTIONS)
def test_both_losses_of_torch_are_routed(reduction):
    x, (t, weight, positive) = torch.randn(4, 3), torch.rand(3, 4, 3)
    code = torch.nn._reduction.get_enum(reduction)
    with fastgan.dispatch.trace() as calls:
        one = routed(F.binary_cross_entropy_with_logits)(x, t, weight, reduction=reduction, pos_weight=positive)
        other = routed(torch.binary_cross_entropy_with_logits)(x, t, weight, positive, code)
    assert [op for op, _ in calls] == ["bce_with_logits"] * 2
    assert torch.equal(one, other)


def test_the_command_prints_one_table_and_counts_failures(monkeypatch, device, capsys):
    assert report(device, ["fastgan.nn.Conv2d"], None) == 0
    printed = capsys.readouterr().out
    assert " comparisons of " in printed and "FAILED" not in printed
    ours = fastgan.functional.binary_cross_entropy_with_logits
    monkeypatch.setitem(routing.ROUTES, F.binary_cross_entropy_with_logits, lambda *a, **k: ours(*a, **k) * 1.001)
    failures = report(device, ["nn.BCEWithLogitsLoss"], None)
    printed = capsys.readouterr().out
    assert failures == printed.count("FAILED nn.BCEWithLogitsLoss") > 100
