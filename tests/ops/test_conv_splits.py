"""The weight gradient of many pixels, where the Triton kernel splits its sum."""

from __future__ import annotations

import torch

from fastgan import functional as FF
from tests.checks import assert_exact


def _gradient(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight.requires_grad_()
    output = FF.conv_transpose2d(x, weight, None, 2)
    return torch.autograd.grad(output, weight, output.detach() % 3)[0]


def test_the_sum_over_many_pixels_is_exact(backend: str, device: torch.device) -> None:
    # 2 * 17 * 17 pixels are 19 tiles: two splits, the second one with a partial tile at its end
    x = torch.randint(-3, 4, (2, 3, 17, 17), device=device).float()
    weight = torch.randint(-3, 4, (3, 2, 1, 2), device=device).float()
    judge = _reference_gradient(x.double(), weight.double())
    assert_exact("grad_weight", _gradient(x, weight), judge)


def _reference_gradient(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight.requires_grad_()
    output = torch.nn.functional.conv_transpose2d(x, weight, None, 2)
    return torch.autograd.grad(output, weight, output.detach() % 3)[0]


def test_repeats_are_bit_equal(backend: str, device: torch.device) -> None:
    x, weight = torch.randn(2, 3, 17, 17, device=device), torch.randn(3, 2, 1, 2, device=device)
    first = _gradient(x, weight)
    assert all(torch.equal(first, _gradient(x, weight)) for _ in range(5))
