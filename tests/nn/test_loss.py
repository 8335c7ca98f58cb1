"""The loss layer against torch's BCEWithLogitsLoss."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import pytest
import torch
from torch import nn

from fastgan.nn import BCEWithLogitsLoss
from tests.checks import assert_rule
from tests.ops.cases import outcome

X, T = torch.linspace(-3, 3, 12).view(3, 4), torch.linspace(0, 1, 12).view(3, 4)
OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": torch.tensor([0.5, 1.0, 2.0, 3.0])},
    {"pos_weight": torch.tensor([0.5, 1.0, 2.0, 3.0])},
    {"weight": torch.tensor([[0.5], [1.0], [2.0]]), "pos_weight": torch.tensor(2.0), "reduction": "none"},
]
options = pytest.mark.parametrize("kwargs", OPTIONS, ids=lambda kwargs: ",".join(kwargs) or "defaults")


def wide(kwargs):
    return {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}


def test_the_constructor_is_torchs():
    assert issubclass(BCEWithLogitsLoss, nn.BCEWithLogitsLoss)
    assert inspect.signature(BCEWithLogitsLoss) == inspect.signature(nn.BCEWithLogitsLoss)


@options
def test_values(kwargs, device):
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}
    x, t = X.to(device), T.to(device)
    judge = nn.BCEWithLogitsLoss(**wide(moved))(x.double(), t.double())
    assert_rule("loss", BCEWithLogitsLoss(**moved)(x, t), nn.BCEWithLogitsLoss(**moved)(x, t), judge)


@options
def test_a_number_as_target(kwargs, device):
    layer = BCEWithLogitsLoss(**kwargs).to(device)
    assert torch.equal(layer(X.to(device), 1.0), layer(X.to(device), torch.ones_like(X, device=device)))


@options
def test_repr_state_and_copies(kwargs):
    mine, theirs = BCEWithLogitsLoss(**kwargs), nn.BCEWithLogitsLoss(**kwargs)
    assert repr(mine) == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(mine.state_dict())
    mine.load_state_dict(theirs.state_dict())
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert torch.equal(other(X, T), mine(X, T))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_half_and_double(dtype, device):
    x, t = X.to(device, dtype), T.to(device, dtype)
    judge = nn.BCEWithLogitsLoss()(x.double(), t.double())
    assert_rule("loss", BCEWithLogitsLoss().to(device, dtype)(x, t), nn.BCEWithLogitsLoss()(x, t), judge)


def test_on_meta():
    assert BCEWithLogitsLoss()(X.to("meta"), 1.0).shape == ()


@pytest.mark.parametrize(
    "flags", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}], ids=str
)
def test_legacy_flags(flags):
    results = []
    for layer in (BCEWithLogitsLoss, nn.BCEWithLogitsLoss):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append((layer(**flags).reduction, [str(warning.message) for warning in caught]))
    assert results[0] == results[1]


ILLEGAL = {
    "shapes": ({}, X, T[:2]),
    "no-broadcast": ({}, X, T[:1]),
    "rank": ({}, X, T.flatten()),
    "reduction": ({"reduction": "average"}, X, T),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_what_raises_in_torch_raises_alike(case):
    kwargs, x, t = ILLEGAL[case]
    assert outcome(lambda: BCEWithLogitsLoss(**kwargs)(x, t)) == outcome(lambda: nn.BCEWithLogitsLoss(**kwargs)(x, t))
