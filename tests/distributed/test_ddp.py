"""Layers inside DistributedDataParallel, and a training under torchrun."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fastgan.nn import BatchNormAct2d, Conv2d, ConvTranspose2d, FusedSequential, convert_sync_batchnorm
from tests.checks import assert_tight
from tests.distributed import workers

ROOT = Path(__file__).parents[2]
SLOPE = 0.2


def ours():
    """A small discriminator and a small generator at once."""
    return nn.Sequential(
        Conv2d(3, 4, 4, 2, 1),
        BatchNormAct2d(4, activation="leaky_relu", negative_slope=SLOPE),
        ConvTranspose2d(4, 5, 4, 2, 1),
        BatchNormAct2d(5, activation="relu"),
        Conv2d(5, 2, 3),
        BatchNormAct2d(2, activation="none"),
    ).double()


def torchs(model):
    """The same network of torch's layers."""
    layers = [
        nn.Conv2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(SLOPE),
        nn.ConvTranspose2d(4, 5, 4, 2, 1), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Conv2d(5, 2, 3), nn.BatchNorm2d(2),
    ]  # fmt: skip
    mine = iter(model)
    for layer in layers:
        if not isinstance(layer, (nn.LeakyReLU, nn.ReLU)):
            layer.load_state_dict(next(mine).state_dict())
    return nn.Sequential(*layers).double()


def images(size):
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("chained", [False, True], ids=["layers", "chain"])
def test_the_gan_step_with_local_statistics(chained, ranks):
    """D(real), D(fake), one backward; each forward starts with the buffers of rank 0, written over those of the forward
    before. (In torch 2.11 torch's own batch norm fails here: a saved tensor was modified in place.)"""
    model = FusedSequential(*ours(), fuse=True) if chained else ours()
    batches = [images(4), images(4)]
    results = ranks(workers.gan_step, [model], batches)
    alone = [torchs(model) for _ in range(2)]
    for network, (real, fake) in zip(alone, batches, strict=True):
        (network(real).square().sum() + network(fake).square().sum() * 2).backward()
    gradients = [(one.grad + other.grad) / 2 for one, other in zip(*(n.parameters() for n in alone), strict=True)]
    for (mine,), (_, fake) in zip(results, batches, strict=True):
        network = torchs(model)
        network(batches[0][0]), network(fake)
        compare(mine, [*gradients, *network.buffers()])


def compare(mine, judges):
    for n, (one, judge) in enumerate(zip(mine, judges, strict=True)):
        if judge.is_floating_point():
            assert_tight(f"tensor {n}", one, judge)
        else:
            assert torch.equal(one, judge)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5)], ids=str)
def test_the_gan_step_with_synchronised_statistics(sizes, ranks):
    model = ours()
    whole = torchs(model)
    batches = images(sum(sizes))
    per_rank = [[batch.split(sizes)[rank] for batch in batches] for rank in range(2)]
    results = ranks(workers.gan_step, [convert_sync_batchnorm(copy.deepcopy(model))], per_rank)
    sum(whole(x).square().sum() * (1 + n) for n, x in enumerate(batches)).backward()
    gradients = [parameter.grad / 2 for parameter in whole.parameters()]  # the mean over the ranks
    for (mine,) in results:
        compare(mine, [*gradients, *whole.buffers()])
    for one, other in zip(*(result[0] for result in results), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_training_under_torchrun(tmp_path):
    script = Path(__file__).with_name("torchrun_script.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert list(one["state"]) == list(other["state"])
    assert all(torch.equal(one["state"][name], other["state"][name]) for name in one["state"])
    assert one["batch_sum"] != other["batch_sum"], "the ranks trained on the same images"
    moved = [name for name in one["state"] if not torch.equal(one["state"][name], one["before"][name])]
    assert moved == list(one["state"])
