"""``torchrun --nproc_per_node 2 torchrun_script.py FOLDER``: two steps of a DCGAN under DistributedDataParallel."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fastgan
from fastgan.models import DCGANDiscriminator, DCGANGenerator

STEPS, BATCH = 2, 2


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # DistributedDataParallel gives all ranks the parameters of rank 0
    networks = [DCGANGenerator(image_size=32), DCGANDiscriminator(image_size=32)]
    networks = [DistributedDataParallel(fastgan.nn.convert_sync_batchnorm(network)) for network in networks]
    generator, discriminator = networks
    before = state(networks)
    optimizers = [torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in networks]
    loss = fastgan.nn.BCEWithLogitsLoss()
    batch_sum = 0.0
    for _ in range(STEPS):
        real, z = torch.rand(BATCH, 3, 32, 32) * 2 - 1, torch.randn(BATCH, generator.module.z_dim)
        batch_sum += float(real.sum())
        fake = generator(z)
        optimizers[1].zero_grad()
        (loss(discriminator(real), 1.0) + loss(discriminator(fake.detach()), 0.0)).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        loss(discriminator(fake), 1.0).backward()
        optimizers[0].step()
    torch.save({"state": state(networks), "before": before, "batch_sum": batch_sum}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def state(networks: list[DistributedDataParallel]) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {
        f"{n}.{name}": tensor.clone()
        for n, network in enumerate(networks)
        for name, tensor in network.module.state_dict().items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
