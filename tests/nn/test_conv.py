"""The convolution layers against their torch twins: constructor, parameters, state, repr, errors, outputs."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

import fastgan
from fastgan.nn.fold import fold_batch_norm
from tests.checks import assert_rule, assert_tight
from tests.ops.cases import integers, outcome, with_gradients

TWINS = {"ConvTranspose2d": (fastgan.nn.ConvTranspose2d, nn.ConvTranspose2d), "Conv2d": (fastgan.nn.Conv2d, nn.Conv2d)}
twins = pytest.mark.parametrize(("ours", "torchs"), list(TWINS.values()), ids=list(TWINS))

OPTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": (3, 2), "dilation": (1, 2)},
    {"groups": 2},
    {"bias": False},
    {"dtype": torch.float64},
]
options = pytest.mark.parametrize("kwargs", OPTIONS, ids=lambda kwargs: ",".join(kwargs) or "defaults")


def pair(ours, torchs, **kwargs):
    """Both layers from the same seed."""
    kwargs = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, **kwargs}
    layers = []
    for layer in (ours, torchs):
        torch.manual_seed(3)
        layers.append(layer(**kwargs))
    return layers


@twins
def test_the_constructor_is_torchs_and_takes_an_activation(ours, torchs):
    assert issubclass(ours, torchs)
    mine, theirs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(layer).parameters.values()] for layer in (ours, torchs)
    )
    only = inspect.Parameter.KEYWORD_ONLY
    assert mine == [*theirs, ("activation", "none", only), ("negative_slope", 0.01, only)]


@twins
@options
def test_the_same_seed_gives_the_same_parameters(ours, torchs, kwargs):
    mine, theirs = pair(ours, torchs, **kwargs)
    assert [name for name, _ in mine.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype


@twins
@options
def test_repr(ours, torchs, kwargs):
    mine, theirs = pair(ours, torchs, **kwargs)
    assert repr(mine) == repr(theirs)


def test_repr_of_same_padding():
    assert "padding=same" in repr(fastgan.nn.Conv2d(2, 3, 4, stride=2, padding="same"))
    assert repr(fastgan.nn.ConvTranspose2d(2, 3, 4, 2, padding="same")) == (
        "ConvTranspose2d(2, 3, kernel_size=(4, 4), stride=(2, 2), padding=same)"
    )


@twins
def test_state_dict_both_ways(ours, torchs):
    mine, theirs = pair(ours, torchs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    fresh = ours(4, 6, 3)
    fresh.load_state_dict(theirs.state_dict())
    assert torch.equal(fresh.weight, theirs.weight)
    back = torchs(4, 6, 3)
    back.load_state_dict(fresh.state_dict())
    assert torch.equal(back.bias, theirs.bias)


@twins
@pytest.mark.parametrize("padding", [1, "same"])
def test_deepcopy_and_pickle(ours, torchs, padding):
    layer = ours(2, 3, 4, stride=1, padding=padding)
    x = torch.randn(1, 2, 5, 5)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(stream, weights_only=False)):
        assert type(other) is ours and repr(other) == repr(layer)
        assert torch.equal(other(x), layer(x))


@twins
def test_meta_construction_and_skip_init(ours, torchs):
    assert ours(2, 3, 4, device="meta").weight.is_meta
    layer = nn.utils.skip_init(ours, 2, 3, 4, stride=2)
    assert layer.weight.shape == torchs(2, 3, 4).weight.shape and not layer.weight.is_meta
    assert (
        ours(2, 3, 4, device="meta", stride=2)(torch.empty(1, 2, 9, 9, device="meta")).shape
        == torchs(2, 3, 4, device="meta", stride=2)(torch.empty(1, 2, 9, 9, device="meta")).shape
    )


@twins
@options
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_outputs_and_gradients(ours, torchs, kwargs, memory_format, device):
    mine, theirs = pair(ours, torchs, **kwargs)
    for layer in (mine, theirs):
        layer.to(device=device, memory_format=memory_format)
    x = torch.randn(2, 4, 7, 6, dtype=mine.weight.dtype).to(device=device, memory_format=memory_format)
    judge = copy.deepcopy(theirs).double()
    results = [run(layer, x.to(layer.weight.dtype)) for layer in (mine, theirs, judge)]
    for name, one, other, judged in zip(("output", "grad_input", "grad_weight", "grad_bias"), *results, strict=False):
        if one.dtype is torch.float64:
            assert_tight(name, one, judged)
        else:
            assert_rule(name, one, other, judged)
    assert results[0][0].stride() == results[1][0].stride()


def run(layer, x, *args):
    x = x.detach().requires_grad_()
    output = layer(x, *args)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])]


@twins
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_half_and_double(ours, torchs, dtype, device):
    mine, theirs = (layer.to(device, dtype) for layer in pair(ours, torchs))
    x = torch.randn(2, 4, 5, 5).to(device, dtype)
    assert_rule("output", mine(x), theirs(x), copy.deepcopy(theirs).double()(x.double()))


@twins
def test_unbatched(ours, torchs, device):
    mine, theirs = (layer.to(device) for layer in pair(ours, torchs))
    x = torch.randn(4, 5, 5, device=device)
    assert_rule("output", mine(x), theirs(x), copy.deepcopy(theirs).double()(x.double()))


OUTPUT_SIZES = [[9, 9], [10, 9], [10, 10], [2, 6, 9, 10], torch.Size([9, 10])]


@pytest.mark.parametrize("output_size", OUTPUT_SIZES, ids=str)
def test_output_size(output_size, device):
    mine, theirs = (layer.to(device) for layer in pair(*TWINS["ConvTranspose2d"], stride=2, padding=1))
    x = torch.randn(2, 4, 5, 5, device=device)
    results = [
        run(layer, x.to(layer.weight.dtype), output_size) for layer in (mine, theirs, copy.deepcopy(theirs).double())
    ]
    assert results[0][0].shape[2:] == tuple(output_size)[-2:]
    for name, *triple in zip(("output", "grad_input", "grad_weight", "grad_bias"), *results, strict=True):
        assert_rule(name, *triple)


def test_output_size_of_an_unbatched_input(device):
    mine, theirs = (layer.to(device) for layer in pair(*TWINS["ConvTranspose2d"], stride=2, padding=1))
    x = torch.randn(4, 5, 5, device=device)
    for output_size in ([10, 9], [6, 10, 9]):
        assert mine(x, output_size).shape == theirs(x, output_size).shape == (6, 10, 9)


@pytest.mark.parametrize("output_size", [[8, 9], [9, 11], [9], [9, 9, 9], [6, 9, 9], [1, 2, 3, 4, 5]], ids=str)
def test_an_illegal_output_size_raises_as_in_torch(output_size):
    mine, theirs = pair(*TWINS["ConvTranspose2d"], stride=2, padding=1)
    x = torch.randn(2, 4, 5, 5)
    assert outcome(lambda: mine(x, output_size)) == outcome(lambda: theirs(x, output_size))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, (1, 2), "same"], ids=str)
def test_padding_modes(mode, padding, device):
    mine, theirs = pair(*TWINS["Conv2d"], padding=padding, padding_mode=mode)
    assert repr(mine) == repr(theirs)
    x = integers((2, 4, 5, 6))
    for layer in (mine, theirs):
        with torch.no_grad():
            layer.weight.copy_(layer.weight.mul(10).round())
            layer.bias.copy_(layer.bias.mul(10).round())
        layer.to(device)
    x = x.to(device)
    assert all(torch.equal(one, other) for one, other in zip(run(mine, x), run(theirs, x), strict=True))


@pytest.mark.parametrize("stride", [1, 2, (2, 1), (1, 1), [1, 1]], ids=str)
def test_same_padding_of_the_layers(stride, device):
    steps = (stride, stride) if isinstance(stride, int) else stride
    x = torch.randn(1, 2, 7, 6, device=device)
    conv = fastgan.nn.Conv2d(2, 3, 4, stride, padding="same", device=device)
    assert conv(x).shape[2:] == (-(-7 // steps[0]), -(-6 // steps[1]))
    transposed = fastgan.nn.ConvTranspose2d(2, 3, 5, stride, padding="same", device=device)
    assert transposed(x).shape[2:] == (7 * steps[0], 6 * steps[1])


ILLEGAL = [
    {"in_channels": 3, "groups": 2},
    {"out_channels": 3, "groups": 2},
    {"groups": 0},
    {"groups": -1},
    {"padding_mode": "mirror"},
    {"padding": "full"},
    {"kernel_size": "a"},
]


@twins
@pytest.mark.parametrize("kwargs", ILLEGAL, ids=lambda kwargs: ",".join(map(str, kwargs.values())))
def test_an_illegal_constructor_raises_as_in_torch(ours, torchs, kwargs):
    if torchs is nn.ConvTranspose2d and kwargs == {"padding": "full"}:
        pytest.skip("torch takes the string apart, letter by letter; see test_what_is_stricter_than_torch")
    assert outcome(lambda: pair(ours, ours, **kwargs)) == outcome(lambda: pair(torchs, torchs, **kwargs))


@twins
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (4, 5), (1, 2, 4, 5, 5), (4,), (), (2, 4, 0, 5)], ids=str)
def test_an_illegal_input_raises_as_in_torch(ours, torchs, shape):
    mine, theirs = pair(ours, torchs, padding=2)
    x = torch.zeros(shape)
    assert outcome(lambda: mine(x)) == outcome(lambda: theirs(x))


def test_padding_mode_of_the_transposed_convolution():
    ours, torchs = TWINS["ConvTranspose2d"]
    kwargs = {"padding_mode": "reflect"}
    assert outcome(lambda: ours(2, 3, 3, **kwargs)) == outcome(lambda: torchs(2, 3, 3, **kwargs))
    mine, theirs = pair(ours, torchs)
    mine.padding_mode = theirs.padding_mode = "reflect"
    x = torch.zeros(1, 4, 5, 5)
    assert outcome(lambda: mine(x)) == outcome(lambda: theirs(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastgan.nn.ConvTranspose2d(2, 3, 3, padding="valid"), "Invalid padding string 'valid'"),
        (lambda: fastgan.nn.ConvTranspose2d(2, 3, 3, 2, "same", 1), "output_padding must be 0"),
        (lambda: fastgan.nn.ConvTranspose2d(2, 3, 3, 2, "same", (0, 1)), "output_padding must be 0"),
        (
            lambda: fastgan.nn.ConvTranspose2d(2, 3, 3, 2, "same")(torch.zeros(1, 2, 3, 3), [6, 6]),
            "output_size must be None",
        ),
        (lambda: fastgan.nn.Conv2d(2, 3, 3, 2, "same", padding_mode="reflect"), "needs padding_mode"),
    ],
    ids=[
        "padding-string",
        "same+output_padding",
        "same+output_padding-pair",
        "same+output_size",
        "strided-same+reflect",
    ],
)
def test_what_is_stricter_than_torch(call, message):
    """What torch does not have ("same" of a transposed or strided convolution), or takes for a sequence of letters."""
    with pytest.raises(ValueError, match=message):
        call()


@twins
def test_gradients_reach_only_what_needs_them(ours, torchs):
    layer = ours(2, 3, 3)
    layer.weight.requires_grad_(False)
    x = torch.randn(1, 2, 4, 4)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None


@twins
def test_weights_init_recipes_find_the_class(ours, torchs):
    assert "Conv" in ours.__name__


@twins
def test_a_parametrised_weight(ours, torchs):
    """Spectral norm is the discriminator's usual companion."""
    mine, theirs = pair(ours, torchs, dtype=torch.float64)
    outputs = []
    for layer in (mine, theirs):
        torch.manual_seed(5)
        nn.utils.parametrizations.spectral_norm(layer)
        outputs.append(with_gradients(layer, [torch.ones(1, 4, 5, 5, dtype=torch.float64)]))
    for one, other in zip(*outputs, strict=True):
        assert_tight("result", one, other)


ACTIVATIONS = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def activated(ours, torchs, activation):
    """One layer, and torch's two, from the same seed."""
    torch.manual_seed(3)
    mine = ours(4, 6, 3, 2, 1, activation=activation, negative_slope=0.2)
    torch.manual_seed(3)
    return mine, nn.Sequential(torchs(4, 6, 3, 2, 1), ACTIVATIONS[activation])


@twins
@activations
def test_an_activation_is_torchs_layer_and_one_after_it(ours, torchs, activation, backend, device):
    mine, theirs = (layer.to(device) for layer in activated(ours, torchs, activation))
    assert mine.state_dict().keys() == theirs[0].state_dict().keys()
    x = torch.randn(2, 4, 5, 6, device=device)
    judge = copy.deepcopy(theirs).double()(x.double())
    for given, judged in ((x, judge), (x[0], judge[0])):
        assert_rule("output", mine(given), theirs(given), judged)


@twins
@activations
def test_an_activation_is_shown_copied_and_pickled(ours, torchs, activation):
    layer, theirs = activated(ours, torchs, activation)
    slope = ", negative_slope=0.2" if activation == "leaky_relu" else ""
    assert repr(layer) == f"{repr(theirs[0])[:-1]}, activation={activation}{slope})"
    x = torch.randn(1, 4, 5, 5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer) and torch.equal(twin(x), layer(x))


@twins
def test_a_wrong_activation_raises(ours, torchs):
    with pytest.raises(ValueError, match='activation must be "relu", "leaky_relu", "tanh" or "none", but got \'gelu\''):
        ours(4, 6, 3, activation="gelu")
    with pytest.raises(ValueError, match="negative_slope must be >= 0"):
        ours(4, 6, 3, activation="leaky_relu", negative_slope=-0.1)


def test_other_padding_modes_have_the_activation_too():
    layer = fastgan.nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", activation="relu")
    x = torch.randn(1, 4, 5, 5)
    expected = nn.Conv2d._conv_forward(layer, x, layer.weight, layer.bias).relu()
    assert_rule("output", layer(x), expected, expected.double())


def test_an_activation_given_after_accelerate_is_not_lost_by_restore():
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    fastgan.accelerate(model)
    assert model[0].activation == "none" and "activation" not in model[0].__dict__
    model[0].activation = "tanh"
    with pytest.raises(ValueError, match=r"^0 \(Conv2d\) was given activation='tanh' after it was accelerated"):
        fastgan.restore(model)
    model[0].activation = "none"
    fastgan.restore(model)
    assert type(model[0]) is nn.Conv2d


@twins
def test_a_norm_is_not_folded_through_an_activation(ours, torchs):
    model = nn.Sequential(ours(4, 6, 3, activation="relu"), nn.BatchNorm2d(6)).eval()
    nn.init.normal_(model[1].running_mean)
    folded, x = fold_batch_norm(model), torch.randn(2, 4, 5, 5)
    assert type(folded[1]) is nn.BatchNorm2d and torch.equal(folded(x), model(x))
