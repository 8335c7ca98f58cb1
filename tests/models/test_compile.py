"""torch.compile with inductor, fullgraph: functions, layers, the networks, a whole step of both players."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastgan
from fastgan import dispatch, functional, models
from tests.checks import assert_tight

pytestmark = [
    pytest.mark.slow,
    # what torch's own compiler warns about
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
shapes = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, dynamic=False):
    return torch.compile(function, fullgraph=True, dynamic=dynamic)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def gradients(function, tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    return [output.detach(), *torch.autograd.grad((output.square() + weights * output).sum(), leaves)]


def batch_norm(training, activation):
    buffers = [torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)]
    return buffers, lambda x, w, b: functional.batch_norm_act(x, *buffers, w, b, training, activation=activation)


FUNCTIONS = {
    "conv_transpose2d": (lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, 1), ((4, 3, 4, 4), (3,))),
    "conv_transpose2d_same": (lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, "same"), ((4, 3, 5, 5), (3,))),
    "conv_transpose2d_tanh": (
        lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, 1, activation="tanh"),
        ((4, 3, 4, 4), (3,)),
    ),
    "conv2d": (lambda x, w, b: functional.conv2d(x, w, b, 2, 1), ((5, 4, 3, 3), (5,))),
    "conv2d_leaky_relu": (
        lambda x, w, b: functional.conv2d(x, w, b, 2, 1, activation="leaky_relu", negative_slope=0.2),
        ((5, 4, 3, 3), (5,)),
    ),
    "conv2d_same": (lambda x, w, b: functional.conv2d(x, w, b, 2, "same"), ((5, 4, 4, 4), (5,))),
    "loss": (lambda x, w, p: functional.binary_cross_entropy_with_logits(x, 0.9, w, pos_weight=p), ((4, 1, 1), (1,))),
}


@shapes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, dynamic):
    function, others = FUNCTIONS[name]
    fast = compiled(function, dynamic)
    extra = [torch.rand(*shape, dtype=torch.float64) for shape in others]
    count = 1 if name == "loss" else 3  # its weights take no gradient
    for n, size in ((2, 6), (7, 8), (3, 9)) if dynamic else ((3, 6),):
        tensors = [draw(n, 4, size, size), *extra]

        def call(function, tensors=tensors):
            return gradients(lambda *leaves: function(*leaves, *tensors[count:]), tensors[:count])

        with torch._dynamo.config.patch(error_on_recompile=(n, size) != (2, 6)):
            for i, (mine, expected) in enumerate(zip(call(fast), call(function), strict=True)):
                assert_tight(f"{name}, result {i}", mine, expected)


@shapes
@modes
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_batch_norm(activation, training, dynamic):
    layer = fastgan.nn.BatchNormAct2d(4, activation=activation).double().train(training)
    eager = copy.deepcopy(layer)
    fast = compiled(layer, dynamic)
    for n in (2, 5, 4) if dynamic else (3, 3, 3):
        x = draw(n, 4, 6, 6)
        for i, (mine, expected) in enumerate(zip(gradients(fast, [x]), gradients(eager, [x]), strict=True)):
            assert_tight(f"result {i}", mine, expected)
        for (name, mine), expected in zip(layer.named_buffers(), eager.buffers(), strict=True):
            assert torch.equal(mine, expected), name
    assert int(layer.num_batches_tracked) == 3 * training


@pytest.mark.parametrize("frozen", [False, True], ids=["no_grad", "frozen"])
def test_training_mode_without_gradients(frozen):
    """Fakes under no_grad, a frozen discriminator: the statistics move as eager's."""
    network = nn.Sequential(
        fastgan.nn.ConvTranspose2d(4, 3, 4, 2, 1), fastgan.nn.BatchNormAct2d(3), fastgan.nn.Conv2d(3, 1, 3)
    )
    network.double().requires_grad_(not frozen)
    eager, fast = copy.deepcopy(network), compiled(network)
    for _ in range(2):
        x = draw(3, 4, 5, 5)
        with torch.set_grad_enabled(frozen):
            assert_tight("output", fast(x), eager(x))
            loss = compiled(lambda logits: functional.binary_cross_entropy_with_logits(logits, 1.0))
            assert_tight("loss", loss(x), functional.binary_cross_entropy_with_logits(x, 1.0))
    for mine, expected in zip(network.buffers(), eager.buffers(), strict=True):
        assert torch.equal(mine, expected)


def test_smoothed_labels_that_change():
    fast = compiled(functional.binary_cross_entropy_with_logits)
    for target in (0.9, 0.95, 0.97, 1.0):
        x = torch.randn(5, requires_grad=True)
        with dispatch.trace():  # our op, which is what is compiled; few logits are left to torch's otherwise
            expected = functional.binary_cross_entropy_with_logits(x, target)
        assert torch.equal(fast(x, target), expected)


NETWORKS = {
    "gan": (models.GANGenerator, models.GANDiscriminator),
    "dcgan": (models.DCGANGenerator, models.DCGANDiscriminator),
    "cgan": (models.CGANGenerator, models.CGANDiscriminator),
}


def inputs(generator, n):
    labels = (torch.randint(10, (n,)),) if hasattr(generator, "classes") else ()
    return draw(n, generator.z_dim), labels


@pytest.mark.parametrize(
    ("name", "training", "dynamic"),
    [
        ("gan", True, False),
        ("dcgan", True, True),
        ("cgan", True, True),
        ("cgan", False, False),
    ],
)
def test_networks(name, training, dynamic):
    """Outputs, gradients of all parameters and statistics are eager's; another batch compiles nothing new."""
    eager = nn.ModuleList(make().double().train(training) for make in NETWORKS[name])
    other = copy.deepcopy(eager)
    fast = [compiled(network, dynamic) for network in other]
    for call, n in enumerate((3, 5, 4) if dynamic else (3, 3, 3)):
        z, labels = inputs(eager[0], n)
        with torch._dynamo.config.patch(error_on_recompile=call > 0):
            for networks in (eager, fast):
                generator, discriminator = networks
                images = generator(z, *labels)
                logits = discriminator(images, *labels)
                functional.binary_cross_entropy_with_logits(logits, 1.0).backward()
                if networks is eager:
                    expected = images.detach(), logits.detach()
        assert_tight("images", images.detach(), expected[0])
        assert_tight("logits", logits.detach(), expected[1])
        theirs = dict(eager.named_parameters())
        for label, parameter in other.named_parameters():
            assert_tight(label, parameter.grad, theirs[label].grad)
        for (label, mine), buffer in zip(other.named_buffers(), eager.buffers(), strict=True):
            assert_tight(label, mine.double(), buffer.double())


def fresh_step(compile_it):
    """One step of D, then one of G, as a function of (real images, z); and the two networks."""
    torch.manual_seed(0)
    generator, discriminator = models.DCGANGenerator().double(), models.DCGANDiscriminator().double()
    options = {"lr": 2e-4, "betas": (0.5, 0.999)}
    g_optimizer = torch.optim.Adam(generator.parameters(), **options)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), **options)
    bce = functional.binary_cross_entropy_with_logits
    wrap = compiled if compile_it else lambda function: function
    generate = wrap(generator)
    d_loss = wrap(lambda real, fake: bce(discriminator(real), 0.9) + bce(discriminator(fake), 0.0))
    g_loss = wrap(lambda fake: bce(discriminator(fake), 1.0))

    def step(real, z):
        fake = generate(z)
        d_optimizer.zero_grad()
        of_d = d_loss(real, fake.detach())
        of_d.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        of_g = g_loss(fake)
        of_g.backward()
        g_optimizer.step()
        return torch.stack((of_d.detach(), of_g.detach()))

    return step, (generator, discriminator)


def test_a_whole_step():
    """Five steps of both players, compiled, are five eager ones; after the first nothing is compiled any more."""
    (eager, networks), (fast, others) = fresh_step(False), fresh_step(True)
    for i in range(5):
        real, z = draw(4, 3, 32, 32).tanh(), draw(4, 128)
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            assert_tight(f"losses of step {i}", fast(real, z), eager(real, z))
    for one, two in zip(networks, others, strict=True):
        theirs = two.state_dict()
        for name, tensor in one.state_dict().items():
            if tensor.is_floating_point():
                assert_tight(name, theirs[name], tensor)
            else:
                assert torch.equal(theirs[name], tensor)


@pytest.mark.parametrize("last", ["convolution", "batch norm", "loss"])
def test_double_backward_is_refused(last):
    """AOTAutograd has none: a gradient penalty on a compiled network raises, whatever its last layer."""
    layers = [fastgan.nn.Conv2d(2, 3, 3), fastgan.nn.BatchNormAct2d(3)]
    network = nn.Sequential(*(layers[:1] if last == "convolution" else layers))
    function = network
    if last == "loss":
        function = lambda x: functional.binary_cross_entropy_with_logits(network(x), 1.0)  # noqa: E731
    x = torch.randn(3, 2, 5, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(compiled(function)(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        grad.square().sum().backward()
