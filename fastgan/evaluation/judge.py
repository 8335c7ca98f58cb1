"""The judge: a small classifier trained once on the real training set, that says what class a sample looks like.

It is made of torch's own layers, not of fastgan's: it must not share a fault with what it judges.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.data import Images

RECIPE = 1  # part of the name of a kept judge: raise it when anything below changes what training gives
FEATURES = 128
BATCH = 128
PEAK_LR = 3e-3
DROPOUT = 0.25
SEEN = 360_000  # images a judge sees in training: 6 epochs of Fashion-MNIST, minutes on two cores
MOST_EPOCHS = 15  # of a small set
EVALUATION_BATCH = 500

Progress = Callable[[float], None]


class Judge(nn.Module):
    """A small classifier. ``forward(images)``: [N, channels, size, size] in [-1, 1] -> logits [N, classes].

    ``features(images)`` are what the logits are made from: [N, 128], not negative.

    Raises ValueError for images too small to be halved twice.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        if size < 4:
            raise ValueError(f"size={size} is too small for a judge: it needs images of at least 4x4")

        def convolve(depth_in: int, depth_out: int) -> nn.Module:
            return nn.Conv2d(depth_in, depth_out, 3, padding=1, bias=False)

        def halve(depth_in: int, depth_out: int) -> list[nn.Module]:
            # pooling first: batch norm and ReLU then have a quarter of the work, and the judge is no worse
            return [convolve(depth_in, depth_out), nn.MaxPool2d(2), nn.BatchNorm2d(depth_out), nn.ReLU()]

        blocks = [*halve(channels, 32), *halve(32, 64)]  # [N, 1, 28, 28] -> [N, 32, 14, 14] -> [N, 64, 7, 7]
        size //= 4
        while size > 8:  # larger images: keeps the dense layer from growing with their area
            blocks += halve(64, 64)
            size //= 2
        self.body = nn.Sequential(
            *blocks,
            convolve(64, 64),  # -> [N, 64, 7, 7]
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),  # -> [N, 3136]
            nn.Dropout(DROPOUT),
            nn.Linear(64 * size * size, FEATURES),  # -> [N, 128]
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)  # -> [N, 10]

    def features(self, images: Tensor) -> Tensor:
        """[N, channels, size, size] -> [N, 128]."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def epochs_for(images: int) -> int:
    """How often a training set of that many images is gone through."""
    return max(1, min(MOST_EPOCHS, round(SEEN / images)))


def train_judge(
    data: Images, seed: int = 0, device: torch.device | str = "cpu", progress: Progress | None = None
) -> Judge:
    """Train a judge on ``data``, the real training set, on ``device``. Returned in eval mode.

    torch's global generator is left as it was; the same seed gives the same judge on a CPU.

    Raises ValueError if ``data`` has no classes.
    """
    if data.classes is None:
        raise ValueError(f"data={data.name} is unlabelled: a judge needs classes to learn")
    device = torch.device(device)
    batch = min(BATCH, len(data))
    epochs = epochs_for(len(data))
    steps = epochs * (len(data) // batch)
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # weights and dropout
        torch.manual_seed(seed)
        judge = Judge(data.channels, data.image_size, data.classes).to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(judge.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_LR, total_steps=steps)
        done = 0
        for _ in range(epochs):
            for images, labels in data.batches(batch, order):
                # channels_last: a seventh faster on a CPU
                images = images.to(device, memory_format=torch.channels_last)
                loss = F.cross_entropy(judge(images), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                done += 1
                if progress is not None:
                    progress(done / steps)
    return judge.eval()


@torch.no_grad()
def real_accuracy(judge: nn.Module, data: Images) -> float:
    """The share of the real images of ``data`` that ``judge`` names rightly."""
    device = next(judge.parameters()).device
    right = 0
    for images, labels in data.in_order(EVALUATION_BATCH):
        right += int((judge(images.to(device)).argmax(1) == labels.to(device)).sum())
    return right / len(data)
