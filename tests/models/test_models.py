"""The architecture: shapes stage by stage, parameter counts, initial weights, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastgan
from fastgan.models import (
    CGANDiscriminator,
    CGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    GANDiscriminator,
    GANGenerator,
)

N = 3


def stage_shapes(network: nn.Module, *inputs: Tensor) -> list[tuple[str, tuple[int, ...]]]:
    """The output shape, without the batch, of each child and each stage, in the order they ran; then the result."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    watched = [(name, module) for name, module in network.named_children() if name not in ("stages", "layers")]
    for holder in ("stages", "layers"):
        if hasattr(network, holder):
            kinds = (nn.Linear, nn.Sequential)
            children = getattr(network, holder).named_children()
            watched += [(f"{holder}.{name}", module) for name, module in children if isinstance(module, kinds)]
    for name, module in watched:
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.append((name, tuple(output.shape[1:]))))
    result = network(*inputs)
    return [*seen, ("result", tuple(result.shape))]


def labels(n: int = N) -> Tensor:
    return torch.arange(n) % 10


def test_gan_shapes() -> None:
    assert stage_shapes(GANGenerator(), torch.randn(N, 100)) == [
        ("layers.0", (256,)),
        ("layers.2", (512,)),
        ("layers.4", (1024,)),
        ("layers.6", (784,)),
        ("result", (N, 1, 28, 28)),
    ]
    assert stage_shapes(GANDiscriminator(), torch.randn(N, 1, 28, 28)) == [
        ("layers.0", (512,)),
        ("layers.2", (256,)),
        ("layers.4", (1,)),
        ("result", (N,)),
    ]


def test_gan_other_sizes() -> None:
    images = GANGenerator(z_dim=7, image_size=12, channels=3)(torch.randn(N, 7))
    assert images.shape == (N, 3, 12, 12)
    assert GANDiscriminator(image_size=12, channels=3)(images).shape == (N,)


@pytest.mark.parametrize("options", [{}, {"kernel_size": 4, "padding": "same"}, {"kernel_size": 5, "padding": "same"}])
def test_dcgan_shapes(options: dict[str, Any]) -> None:
    assert stage_shapes(DCGANGenerator(**options), torch.randn(N, 128)) == [
        ("project", (2048,)),
        ("project_norm", (512, 2, 2)),
        ("stages.0", (256, 4, 4)),
        ("stages.1", (128, 8, 8)),
        ("stages.2", (64, 16, 16)),
        ("to_image", (3, 32, 32)),
        ("result", (N, 3, 32, 32)),
    ]
    assert stage_shapes(DCGANDiscriminator(**options), torch.randn(N, 3, 32, 32)) == [
        ("from_image", (64, 16, 16)),
        ("stages.0", (128, 8, 8)),
        ("stages.1", (256, 4, 4)),
        ("stages.2", (512, 2, 2)),
        ("to_logit", (1,)),
        ("result", (N,)),
    ]


@pytest.mark.parametrize(("size", "stages"), [(64, 4), (128, 5)])
@pytest.mark.parametrize("options", [{}, {"kernel_size": 5, "padding": "same"}])
def test_dcgan_larger_images(size: int, stages: int, options: dict[str, Any]) -> None:
    generator = DCGANGenerator(image_size=size, channels=1, **options)
    discriminator = DCGANDiscriminator(image_size=size, channels=1, **options)
    assert len(generator.stages) == len(discriminator.stages) == stages
    images = generator(torch.randn(2, 128))
    assert images.shape == (2, 1, size, size)
    assert discriminator(images).shape == (2,)


def test_cgan_shapes() -> None:
    assert stage_shapes(CGANGenerator(), torch.randn(N, 100), labels()) == [
        ("project", (6272,)),
        ("embed", (50,)),
        ("label_plane", (49,)),
        ("stages.0", (128, 14, 14)),
        ("stages.1", (64, 28, 28)),
        ("to_image", (1, 28, 28)),
        ("result", (N, 1, 28, 28)),
    ]
    assert CGANGenerator().stages[0][0].weight.shape == (129, 128, 4, 4)  # 128 features and the label plane
    assert stage_shapes(CGANDiscriminator(), torch.randn(N, 1, 28, 28), labels()) == [
        ("embed", (50,)),
        ("label_plane", (784,)),
        ("from_image", (64, 14, 14)),
        ("stages.0", (128, 7, 7)),
        ("stages.1", (256, 4, 4)),
        ("stages.2", (512, 2, 2)),
        ("to_logit", (1,)),
        ("result", (N,)),
    ]


def dense(a: int, b: int) -> int:
    return a * b + b


PARAMETERS: list[tuple[Callable[[], nn.Module], int]] = [
    (GANGenerator, dense(100, 256) + dense(256, 512) + dense(512, 1024) + dense(1024, 784)),
    (GANDiscriminator, dense(784, 512) + dense(512, 256) + dense(256, 1)),
    (
        DCGANGenerator,
        dense(128, 2048)
        + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
        + 3  # the bias of the last, which no batch norm follows
        + 2 * (512 + 256 + 128 + 64),
    ),
    (
        DCGANDiscriminator,
        16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + dense(2048, 1),
    ),
    (
        CGANGenerator,
        dense(100, 6272) + 10 * 50 + dense(50, 49) + 16 * (129 * 128 + 128 * 64) + 2 * (128 + 64) + (49 * 64 + 1),
    ),
    (
        CGANDiscriminator,
        10 * 50
        + dense(50, 784)
        + 16 * (2 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
        + 64
        + 2 * (128 + 256 + 512)
        + dense(2048, 1),
    ),
]


@pytest.mark.parametrize(("make", "count"), PARAMETERS, ids=lambda value: getattr(value, "__name__", None))
def test_parameter_count(make: Callable[[], nn.Module], count: int) -> None:
    assert sum(parameter.numel() for parameter in make().parameters()) == count


@pytest.mark.parametrize("make", [make for make, _ in PARAMETERS])
def test_initial_weights(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    for name, module in make().named_modules():
        if isinstance(module, nn.BatchNorm2d):
            mean = 1.0
            assert module.bias.eq(0).all()
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            mean = 0.0
            assert module.bias is None or module.bias.eq(0).all()
        else:
            continue
        # Six standard errors, of the mean and of the standard deviation of a normal sample.
        weight, n = module.weight.detach(), module.weight.numel()
        assert abs(float(weight.mean()) - mean) < 6 * 0.02 / n**0.5, name
        assert abs(float(weight.std()) - 0.02) < 6 * 0.02 / (2 * n) ** 0.5, name


@pytest.mark.parametrize("make", [make for make, _ in PARAMETERS])
def test_bias_only_where_no_norm_follows(make: Callable[[], nn.Module]) -> None:
    for stage in getattr(make(), "stages", []):
        convolution, norm = stage
        assert convolution.bias is None
        assert isinstance(norm, nn.BatchNorm2d)


def test_state_dict_keys() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    stages = [f"stages.{i}.{key}" for i in range(3) for key in ["0.weight", *(f"1.{key}" for key in norm)]]
    assert list(DCGANGenerator().state_dict()) == [
        "project.weight",
        "project.bias",
        *(f"project_norm.{key}" for key in norm),
        *stages,
        "to_image.weight",
        "to_image.bias",
    ]
    assert list(DCGANDiscriminator().state_dict()) == [
        "from_image.weight",
        "from_image.bias",
        *stages,
        "to_logit.weight",
        "to_logit.bias",
    ]
    label = ["embed.weight", "label_plane.weight", "label_plane.bias"]
    assert list(CGANGenerator().state_dict()) == [
        "project.weight",
        "project.bias",
        *label,
        *stages[:12],
        "to_image.weight",
        "to_image.bias",
    ]
    assert list(CGANDiscriminator().state_dict()) == [
        *label,
        "from_image.weight",
        "from_image.bias",
        *stages,
        "to_logit.weight",
        "to_logit.bias",
    ]


def test_images_are_in_range_and_logits_are_not_probabilities() -> None:
    images = CGANGenerator()(100 * torch.randn(50, 100), labels(50))
    assert images.abs().max() <= 1
    assert CGANDiscriminator()(images, labels(50)).lt(0).any()


def test_slopes_and_norm_placement() -> None:
    for discriminator in (DCGANDiscriminator(), CGANDiscriminator()):
        slopes = [module.negative_slope for module in discriminator.modules() if isinstance(module, nn.BatchNorm2d)]
        assert slopes == [0.2, 0.2, 0.2]


CONSTRUCTION_ERRORS = [
    (lambda: GANGenerator(z_dim=0), "z_dim"),
    (lambda: GANGenerator(image_size=2.5), "image_size"),
    (lambda: GANDiscriminator(channels=True), "channels"),
    (lambda: DCGANGenerator(image_size=48), "image_size must be one of"),
    (lambda: DCGANDiscriminator(image_size="32"), "image_size must be one of"),
    (lambda: DCGANGenerator(channels=-1), "channels"),
    (lambda: DCGANGenerator(kernel_size=5), 'padding="same"'),
    (lambda: DCGANGenerator(padding="SAME"), "padding must be"),
    (lambda: DCGANGenerator(padding=None), "padding must be"),
    (lambda: DCGANDiscriminator(kernel_size=1, padding="same"), "kernel_size"),
    (lambda: CGANGenerator(classes=0), "classes"),
    (lambda: CGANDiscriminator(classes=2.0), "classes"),
]


@pytest.mark.parametrize(("make", "message"), CONSTRUCTION_ERRORS)
def test_construction_errors(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


CALL_ERRORS = [
    (GANGenerator, (torch.zeros(2, 99),), ValueError, r"z must have shape \[N, 100\]"),
    (GANGenerator, (torch.zeros(100),), ValueError, "z must have shape"),
    (DCGANGenerator, (torch.zeros(2, 128, dtype=torch.int64),), TypeError, "z must be a floating-point"),
    (GANDiscriminator, (torch.zeros(2, 784),), ValueError, "images must have shape"),
    (DCGANDiscriminator, (torch.zeros(2, 1, 32, 32),), ValueError, r"images must have shape \[N, 3, 32, 32\]"),
    (DCGANDiscriminator, (torch.zeros(2, 3, 32, 32, dtype=torch.uint8),), TypeError, "images must be a floating"),
    (CGANGenerator, (torch.zeros(2, 100), torch.zeros(2)), TypeError, "labels must be int64"),
    (CGANGenerator, (torch.zeros(2, 100), torch.zeros(2, dtype=torch.int32)), TypeError, "labels must be int64"),
    (CGANGenerator, (torch.zeros(2, 100), torch.tensor([0, 10])), ValueError, r"labels must be in \[0, 10\)"),
    (CGANGenerator, (torch.zeros(2, 100), torch.tensor([-1, 3])), ValueError, "from -1 to 3"),
    (CGANGenerator, (torch.zeros(2, 100), torch.zeros(2, 1, dtype=torch.int64)), ValueError, r"shape \[2\]"),
    (CGANGenerator, (torch.zeros(2, 100), torch.zeros(3, dtype=torch.int64)), ValueError, r"shape \[2\]"),
    (CGANDiscriminator, (torch.zeros(2, 1, 32, 32), torch.tensor([0, 1])), ValueError, "images must have shape"),
    (CGANDiscriminator, (torch.zeros(2, 1, 28, 28), torch.zeros(2)), TypeError, "labels must be int64"),
]


@pytest.mark.parametrize(("make", "inputs", "kind", "message"), CALL_ERRORS)
def test_call_errors(
    make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()(*inputs)


def test_empty_batch_in_eval_mode() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    images = CGANGenerator().eval()(torch.zeros(0, 100), none)
    assert images.shape == (0, 1, 28, 28)
    assert CGANDiscriminator().eval()(images, none).shape == (0,)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (DCGANGenerator, "to_image"),
        (DCGANDiscriminator, "from_image"),
        (CGANGenerator, "to_image"),
        (CGANDiscriminator, "from_image"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_activation_of_a_convolution_is_the_one_that_stood_after_it(network, layer):
    """Bit for bit, where torch computes both."""
    net = network()
    convolution, seen = getattr(net, layer), []
    convolution.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    labels = (torch.randint(10, (2,)),) if hasattr(net, "classes") else ()
    first = (net.channels, net.image_size, net.image_size) if layer == "from_image" else (net.z_dim,)
    with fastgan.use_backend("reference"), torch.no_grad():
        net(torch.randn(2, *first), *labels)
        (x, output), convolution.activation = seen[0], "none"
        plain = convolution(x)
    expected = plain.tanh() if layer == "to_image" else torch.nn.functional.leaky_relu(plain, 0.2)
    assert torch.equal(output, expected)
    assert {f"{layer}.weight", f"{layer}.bias"} == {key for key in net.state_dict() if key.startswith(layer)}
