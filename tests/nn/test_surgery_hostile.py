"""accelerate and fold_batch_norm change no result of models that use the two layers of a pair apart on some path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan.nn.fold import fold_batch_norm
from fastgan.nn.surgery import accelerate
from tests.nn.hostile import CASES, FOLDS, Holder, Large, Plain, TurnsGradientsOff, plain
from tests.nn.test_fold import norms, settle


def assert_same(ours: nn.Module, theirs: nn.Module, call: Callable[[Any, Tensor], Any]) -> None:
    x = torch.randn(2, 3, 6, 6)
    for use in (plain, call):
        torch.testing.assert_close(use(ours, x.clone()), use(theirs, x.clone()))


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "in a Sequential"])
@pytest.mark.parametrize("name", CASES)
def test_no_result_changes(name: str, outer: bool) -> None:
    build, call = CASES[name]
    model = settle(build()).train()
    twin = copy.deepcopy(model)
    report = accelerate(nn.Sequential(model) if outer else model)
    assert_same(model, twin, call)
    assert [row.torch_type for row in report.replaced] == ["Conv2d"]


@pytest.mark.parametrize("build", [Plain, Holder])
def test_what_these_cases_have_in_common_is_fused(build: Callable[[], nn.Module]) -> None:
    model = settle(build())
    assert [row.torch_type for row in accelerate(model).replaced] == ["Conv2d", "BatchNorm2d"]
    assert norms(fold_batch_norm(settle(build()))) == []


@pytest.fixture
def outputs_of_norms() -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []

    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(module, nn.BatchNorm2d):
            outputs.append(output.clone())

    handle = nn.modules.module.register_module_forward_hook(hook)
    yield outputs
    handle.remove()


def test_a_hook_on_all_modules_sees_what_it_saw(outputs_of_norms: list[Tensor]) -> None:
    model = settle(Holder().seq)
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 6, 6)
    (reason,) = [row.reason for row in accelerate(model).kept]
    assert reason == "hooks on all modules would see the activated output"
    twin(x)
    model(x)
    torch.testing.assert_close(*outputs_of_norms)


@pytest.mark.parametrize("name", FOLDS)
def test_no_result_changes_by_folding(name: str) -> None:
    build, call = FOLDS[name]
    model = settle(build())
    folded = fold_batch_norm(model)
    assert len(norms(folded)) == 1
    assert_same(folded, model, call)


def test_a_product_that_overflows_is_not_folded() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    model[0].weight.data.fill_(300.0)
    model[1].running_var.fill_(1e-7)
    model[1].weight.data.fill_(1.0)
    folded = fold_batch_norm(model.half())
    assert norms(folded) == ["1"]
    assert all(value.isfinite().all() for value in folded.state_dict().values())


def test_the_gradient_mode_is_put_back() -> None:
    assert len(accelerate(TurnsGradientsOff()).replaced) == 2
    assert torch.is_grad_enabled()


def test_tracing_copies_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tensor is copied")

    model = Large()
    monkeypatch.setattr(Tensor, "__deepcopy__", refuse)
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", refuse)
    assert [row.torch_type for row in accelerate(model).replaced] == ["Conv2d", "BatchNorm2d"]
