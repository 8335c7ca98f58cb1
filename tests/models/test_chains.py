"""DCGAN and cGAN with their stages as a chain: against torch's layers and against themselves layer by layer."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan import dispatch, models
from fastgan.functional import binary_cross_entropy_with_logits
from tests.checks import assert_tight
from tests.models.test_twins import PAIRS, make_pair, play, worst

#: How many links each has at 16 values per channel and more.
LINKS = {name: 2 if name == "cgan-g" else 3 for name in PAIRS if not name.startswith("gan")}
BATCH, STEPS = 5, 5


def draw(network: nn.Module) -> tuple[torch.Tensor, ...]:
    """Inputs of all steps, as tests.models.test_twins.make_inputs makes them, but of more images."""
    z_dim = getattr(network, "z_dim", None)
    shape = (z_dim,) if z_dim else (network.channels, network.image_size, network.image_size)
    first = torch.randn(STEPS, BATCH, *shape, dtype=torch.float64)
    first = first if z_dim else first.tanh()
    return (first, torch.randint(10, (STEPS, BATCH))) if hasattr(network, "classes") else (first,)


NETWORKS = {
    "dcgan": (models.DCGANGenerator, models.DCGANDiscriminator),
    "cgan": (models.CGANGenerator, models.CGANDiscriminator),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_chained_network_is_its_twin(name: str) -> None:
    """The rule of test_twins.test_twin."""
    ours, twin, _ = make_pair(name, seed=1)
    ours.stages.fuse = True
    inputs = draw(ours)
    judge = play(twin, inputs, torch.float64)
    with dispatch.trace() as calls:
        same_precision = play(ours, inputs, torch.float64)
    assert sum(op in ("conv2d_stats", "conv_transpose2d_stats") for op, _ in calls) == STEPS * LINKS[name]
    for what in judge:
        assert worst(same_precision[what], judge[what]) < 1e-10, what
    single, torch_single = play(ours, inputs, torch.float32), play(twin, inputs, torch.float32)
    for what in ("outputs", "gradients"):
        allowed = 2 * worst(torch_single[what], judge[what]) + 2 * torch.finfo(torch.float32).eps
        assert worst(single[what], judge[what]) <= allowed, what


@pytest.mark.parametrize("make", NETWORKS["dcgan"])
@pytest.mark.parametrize(("size", "links"), [(64, 4), (128, 5)])
def test_larger_images(size: int, links: int, make: type[nn.Module]) -> None:
    """More links in a chain: outputs, gradients and running statistics."""
    network = make(image_size=size).double()
    results = []
    for fuse in (True, False):
        model = copy.deepcopy(network)
        model.stages.fuse = fuse
        torch.manual_seed(0)
        given = torch.randn(4, model.z_dim) if hasattr(model, "z_dim") else torch.randn(4, 3, size, size)
        with dispatch.trace() as calls:
            output = model(given.double().requires_grad_())
        assert sum(op in ("conv2d_stats", "conv_transpose2d_stats") for op, _ in calls) == links * fuse
        output.square().sum().backward()
        results.append([output.detach(), *(p.grad for p in model.parameters()), *(b.double() for b in model.buffers())])
    for i, (mine, theirs) in enumerate(zip(*results, strict=True)):
        assert_tight(f"{i}", mine, theirs)


class Shapes(TorchDispatchMode):
    """The channels of all tensors that each op is given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.setdefault(func.name(), [t.shape[1] for t in args if isinstance(t, torch.Tensor) and t.dim() == 4])
        return func(*args, **kwargs or {})


def test_a_generators_label_is_beside_its_image() -> None:
    """A chain does not concatenate the two."""
    network = models.CGANGenerator()
    for fuse in (True, False):
        network.stages.fuse = fuse
        with torch.no_grad(), Shapes() as shapes:
            network(torch.randn(16, 100), torch.arange(16) % 10)
        assert ("aten::cat" in shapes.calls) == (not fuse)
        if fuse:
            assert shapes.calls["fastgan::conv_transpose2d_stats"] == [128, 1, 128]  # the weight's: of the output


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_step_of_both_networks(name: str) -> None:
    """Three steps of D and G, each with its optimizer."""
    torch.manual_seed(0)
    players = [make().double() for make in NETWORKS[name]]
    others = copy.deepcopy(players)
    for player in players:
        player.stages.fuse = True
    generator, discriminator = players
    size = (discriminator.channels, discriminator.image_size, discriminator.image_size)
    data = [
        (torch.randn(BATCH, *size).double().tanh(), torch.randn(BATCH, generator.z_dim).double(), torch.arange(BATCH))
        for _ in range(3)
    ]
    for pair in (players, others):
        steps = [torch.optim.Adam(player.parameters(), 2e-4, betas=(0.5, 0.999)) for player in pair]
        for real, z, labels in data:
            play_one_step(pair, steps, real, z, (labels,) if name == "cgan" else ())
    for mine, theirs in zip(players, others, strict=True):
        expected = theirs.state_dict()
        for key, tensor in mine.state_dict().items():
            if tensor.is_floating_point():
                assert_tight(key, tensor, expected[key])
            else:
                assert torch.equal(tensor, expected[key]), key


def play_one_step(players, optimizers, real, z, condition) -> None:
    generator, discriminator = players
    fake = generator(z, *condition)
    optimizers[1].zero_grad()
    loss = binary_cross_entropy_with_logits(discriminator(real, *condition), 0.9)
    (loss + binary_cross_entropy_with_logits(discriminator(fake.detach(), *condition), 0.0)).backward()
    optimizers[1].step()
    optimizers[0].zero_grad()
    binary_cross_entropy_with_logits(discriminator(fake, *condition), 1.0).backward()
    optimizers[0].step()


@pytest.mark.parametrize("name", NETWORKS)
def test_tools_work_on_chained_networks(name: str) -> None:
    """The fold, the conversion to synchronised batch norm, copies, and checkpoints of networks that had none."""
    for make in NETWORKS[name]:
        network = make().double()
        network.stages.fuse = True
        given = [tensor[0] for tensor in draw(network)]
        network(*given)  # running statistics
        stream = io.BytesIO()
        torch.save(network.state_dict(), stream)
        stream.seek(0)
        fresh = make().double()
        fresh.load_state_dict(torch.load(stream))
        assert_tight("loaded", fresh.eval()(*given), network.eval()(*given))
        folded = fastgan.fold_batch_norm(network)
        left = [module for module in folded.stages.modules() if isinstance(module, nn.BatchNorm2d)]
        assert not left and folded.stages.fuse
        assert_tight("folded", folded(*given), network(*given))
        network.train()
        plain = copy.deepcopy(network)
        plain.stages.fuse = False
        fastgan.nn.convert_sync_batchnorm(network)
        with dispatch.trace() as calls:
            assert_tight("synchronised", network(*given), plain(*given))
        assert not any("_stats" in op for op, _ in calls)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NETWORKS)
def test_chains_are_captured_in_a_graph(name: str) -> None:
    """Forward and backward of both networks; a replay has eager's bits."""
    generator, discriminator = (make().cuda().to(memory_format=torch.channels_last) for make in NETWORKS[name])
    z, labels = torch.randn(16, generator.z_dim, device="cuda"), torch.arange(16, device="cuda") % 10
    condition = (labels,) if name == "cgan" else ()
    players = [*generator.parameters(), *discriminator.parameters()]

    def step() -> list[torch.Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            logits = discriminator(generator(z, *condition), *condition)
        return [logits, *torch.autograd.grad(binary_cross_entropy_with_logits(logits.float(), 1.0), players)]

    with fastgan.use_backend("triton"), dispatch.trace() as calls:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            expected = [tensor.clone() for tensor in step()]
        torch.cuda.current_stream().wait_stream(side)
        assert any(op.endswith("_stats") for op, _ in calls)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        for tensor in found:
            tensor.zero_()
        graph.replay()
    torch.cuda.synchronize()
    assert all(map(torch.equal, found, expected))
