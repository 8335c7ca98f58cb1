"""Does a sample that was asked to be of class y look like class y? A classifier trained on the real images decides.

The judge is made of torch's own layers, not of fastgan's: it must not share a fault with what it judges.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.data import ImageSet, normalise
from fastgan.training import Generator, classes_of, generate, load_checkpoint, save_checkpoint

EPOCHS = {"digits": 15, "fashion-mnist": 3}  # enough to be right on 95 % and 90 % of the real test images
BATCH = 128
PEAK_LR = 3e-3
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class ClassAccuracy:
    """The share of samples of the class asked for: over all, and for each class."""

    total: float
    per_class: list[float]
    samples: int


class Judge(nn.Module):
    """A small classifier. ``forward(images)``: [N, channels, size, size] in [-1, 1] -> logits [N, classes]."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1, bias=False),  # [N, 1, 28, 28] -> [N, 32, 28, 28]
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),  # -> [N, 32, 14, 14]
            nn.Conv2d(32, 64, 3, padding=1, bias=False),  # -> [N, 64, 14, 14]
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),  # -> [N, 64, 7, 7]
            nn.Flatten(),  # -> [N, 3136]
            nn.Linear(64 * (size // 4) ** 2, 128),  # -> [N, 128]
            nn.ReLU(),
            nn.Linear(128, classes),  # -> [N, 10]
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def train_judge(data: ImageSet, seed: int = 0) -> Judge:
    """Train a judge on ``data``, the real training set, on the device it is on. Returned in eval mode.

    torch's global generator is left as it was; the same seed gives the same judge on a CPU.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(data.images.shape[1], data.images.shape[2], data.classes).to(data.images.device)
    epochs = EPOCHS[data.name]
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(judge.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_LR, total_steps=epochs * (len(data) // BATCH))
    for _ in range(epochs):
        for images, labels in data.batches(BATCH, order):
            loss = F.cross_entropy(judge(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


@torch.no_grad()
def real_accuracy(judge: Judge, data: ImageSet) -> float:
    """The share of the real images of ``data`` that ``judge`` names rightly."""
    right = 0
    for start in range(0, len(data), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        right += int((judge(normalise(data.images[part])).argmax(1) == data.labels[part]).sum())
    return right / len(data)


def trained_judge(path: Path, train: ImageSet, test: ImageSet, seed: int = 0) -> tuple[Judge, float]:
    """The judge kept at ``path``, or a new one that is then kept there; and its accuracy on ``test``.

    Raises CheckpointError if the file is damaged, OSError if it cannot be written.
    """
    channels, size = train.images.shape[1], train.images.shape[2]
    protocol = {"data": train.name, "channels": channels, "size": size, "epochs": EPOCHS[train.name], "seed": seed}
    if path.exists():
        kept = load_checkpoint(path, "protocol", "judge")
        if kept["protocol"] == protocol:
            judge = Judge(channels, size, train.classes)
            judge.load_state_dict(kept["judge"])
            judge.to(test.images.device).eval()
            return judge, real_accuracy(judge, test)
    judge = train_judge(train, seed)
    save_checkpoint(path, {"protocol": protocol, "judge": judge.state_dict()})
    return judge, real_accuracy(judge, test)


@torch.no_grad()
def class_accuracy(generator: Generator, judge: nn.Module, samples: int = 10_000, seed: int = 0) -> ClassAccuracy:
    """Ask ``generator`` for each class equally often and let ``judge`` say what came.

    ``generator``: a conditional one, called ``(z, labels)``; both networks on one device.

    Raises ValueError for a generator that takes no class, and for ``samples`` that do not divide by the classes.
    """
    classes = classes_of(generator)
    if classes is None:
        raise ValueError("generator is unconditional: there is no class to ask for")
    if samples < classes or samples % classes:
        raise ValueError(f"samples={samples} must be a positive multiple of the {classes} classes")
    device = next(generator.parameters()).device
    noise = torch.Generator(device).manual_seed(seed)
    asked = torch.arange(samples, device=device) % classes
    right = torch.zeros(classes, dtype=torch.int64, device=device)
    for labels in asked.split(EVALUATION_BATCH):
        z = torch.randn(len(labels), generator.z_dim, generator=noise, device=device)
        hit = judge(generate(generator, z, labels)).argmax(1) == labels
        right += torch.bincount(labels[hit], minlength=classes)
    per_class = (right.double() / (samples // classes)).tolist()
    return ClassAccuracy(int(right.sum()) / samples, per_class, samples)


def evaluation_record(accuracy: ClassAccuracy, judge_accuracy: float, data: str, seed: int) -> dict[str, object]:
    """What is written to evaluation.json: the figures together with the protocol that gave them."""
    return {
        "class_accuracy": asdict(accuracy),
        "protocol": {
            "data": data,
            "judge": "2-layer CNN trained on the real training set",
            "judge_epochs": EPOCHS[data],
            "judge_test_accuracy": judge_accuracy,
            "samples": accuracy.samples,
            "seed": seed,
        },
    }
