"""FusedSequential against nn.Sequential of the same layers: which ops run, results, gradients, statistics."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan import dispatch
from fastgan.info import SAMPLES
from fastgan.nn import BatchNormAct2d, Conv2d, ConvTranspose2d, FusedSequential
from tests.checks import assert_rule, assert_tight, backend_reason

compilers_warn = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
LINKS = ("conv_transpose2d_stats", "conv2d_stats")


def layers(**norm):
    return [
        BatchNormAct2d(4, activation="leaky_relu", negative_slope=0.2, **norm),
        ConvTranspose2d(4, 6, 4, 2, 1, bias=False),
        BatchNormAct2d(6, **norm),
        Conv2d(6, 5, 3, 2, "same"),
        BatchNormAct2d(5, activation="none", **norm),
        Conv2d(5, 2, 3, activation="tanh"),
    ]


def pair(make=layers, dtype=torch.float64, **kwargs):
    """(FusedSequential that always fuses, nn.Sequential), with the same parameters, which are not the initial ones."""
    fused = FusedSequential(*make(**kwargs), fuse=True).to(dtype)
    for parameter in fused.parameters():
        parameter.data += torch.randn_like(parameter) / 10
    return fused, nn.Sequential(*copy.deepcopy(list(fused)))


def draw(n=4, channels=4, size=(4, 5), dtype=torch.float64):
    return torch.randn(n, channels, *size, dtype=dtype)


def run(model, x, **kwargs):
    """(output, gradients and buffers by name, names of the ops that ran)."""
    x = x.detach().requires_grad_()
    model.zero_grad()
    with dispatch.trace() as calls:
        output = model(x, **kwargs)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        (output.square() + weights * output).sum().backward()
    found = {"output": output.detach(), "input": x.grad}
    found |= {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in model.named_buffers()}, [op for op, _ in calls]


def linked(ops):
    return sum(op in LINKS for op in ops)


def assert_same(mine, theirs, exactly=False):
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        if exactly or not expected.is_floating_point():
            assert torch.equal(mine[name], expected), name
        else:
            assert_tight(name, mine[name], expected)


def compare(fused, plain, x, links, exactly=False):
    """Three steps of training, then eval mode."""
    for _ in range(3):
        mine, ops = run(fused, x)
        theirs, _ = run(plain, x)
        assert linked(ops) == links, ops
        assert_same(mine, theirs, exactly)
    with torch.no_grad(), dispatch.trace() as calls:
        assert_tight("eval", fused.eval()(x), plain.eval()(x))
    assert not linked(op for op, _ in calls)


NORMS = [
    {},
    {"momentum": None},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"eps": 0.1},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


@pytest.mark.parametrize("kwargs", NORMS, ids=str)
def test_the_same_numbers(kwargs):
    fused, plain = pair(**kwargs)
    x = draw()
    if not kwargs.get("track_running_stats", True):
        for _ in range(2):
            mine, ops = run(fused, x)
            assert linked(ops) == 2
            assert_same(mine, run(plain, x)[0])
        return
    compare(fused, plain, x, 2)
    tracked = [norm.num_batches_tracked for norm in fused if isinstance(norm, BatchNormAct2d)]
    assert [int(count) for count in tracked] == [3, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_by_the_rule(dtype):
    """Outputs, gradients and statistics, against torch's own layers."""
    fused = FusedSequential(*layers()[:5], fuse=True).to(dtype)
    theirs = nn.Sequential(*(twin for layer in fused for twin in torchs(layer))).to(dtype)
    judge, x = copy.deepcopy(theirs).double(), draw(16, dtype=dtype)
    results = [list(run(model, x.to(model[0].weight.dtype))[0].values()) for model in (fused, theirs, judge)]
    for i, (mine, torchs_, exact) in enumerate(zip(*results, strict=True)):
        if exact.is_floating_point():
            assert_rule(f"result {i}", mine, torchs_, exact)


def torchs(layer):
    """torch's layers with the same parameters."""
    if isinstance(layer, BatchNormAct2d):
        twin = nn.BatchNorm2d(layer.num_features)
        act = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(layer.negative_slope)}
        return twin, act[layer.activation]
    if isinstance(layer, ConvTranspose2d):
        twin = nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False)
    else:
        twin = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(6, 5, 3, 2))
    (twin if isinstance(twin, nn.ConvTranspose2d) else twin[1]).load_state_dict(layer.state_dict())
    return (twin,)


def test_which_ops_run():
    ops = run(pair()[0], draw())[1]
    assert ops[:5] == ["batch_norm_stats", *LINKS, "batch_norm_act_eval", "conv2d_act"]
    assert [op for op in ops if op.endswith("stats_backward")] == [f"{op}_backward" for op in LINKS[::-1]]


def test_first_is_a_layer_before_the_others():
    norm, *others = layers()
    fused, plain = FusedSequential(*others, fuse=True).double(), nn.Sequential(*layers()).double()
    norm.double()
    plain.load_state_dict(nn.Sequential(norm, *others).state_dict())
    for train in (True, False):
        x = draw()
        for model in (fused, norm, plain):
            model.train(train)
        with dispatch.trace() as calls:
            output = fused(x, first=norm)
        assert_tight("output", output, plain(x))
        assert linked(op for op, _ in calls) == 2 * train
    assert int(norm.num_batches_tracked) == 1
    assert_tight("running_mean", norm.running_mean, plain[0].running_mean)
    assert "first" not in dict(fused.named_modules())


class Concatenations(TorchDispatchMode):
    """How often anything is concatenated."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.cat.default
        return func(*args, **kwargs or {})


STARTS = (
    "link",
    "norm then link",
    "first then link",
    "first convolution",
    "first twice",
    "first alone",
    "no link",
    "nothing",
)


@pytest.mark.parametrize("start", STARTS)
def test_channels_beside_the_input(start):
    """As after torch.cat, which a chain that starts with them does without."""
    norm, up = BatchNormAct2d(3), ConvTranspose2d(4, 6, 4, 2, 1, bias=False)
    children = {
        "link": [up, BatchNormAct2d(6), Conv2d(6, 5, 3), BatchNormAct2d(5)],
        "norm then link": [BatchNormAct2d(4), up, BatchNormAct2d(6)],
        "first then link": [up, BatchNormAct2d(6)],
        "first convolution": [BatchNormAct2d(4), up, BatchNormAct2d(6)],
        "first twice": [Conv2d(4, 3, 1), norm, Conv2d(3, 2, 1), BatchNormAct2d(2)],
        "first alone": [],
        "no link": [up, nn.Tanh()],
        "nothing": [],
    }[start]
    first = norm.double() if start.startswith("first") else None
    if start == "first convolution":
        first = Conv2d(3, 3, 1).double()
    fused = FusedSequential(*children, fuse=True).double()
    before_plain, plain = copy.deepcopy([first, nn.Sequential(*children)])
    results = []
    for model, before in ((fused, first), (plain, before_plain)):
        torch.manual_seed(0)
        x, beside = (torch.randn(4, channels, 4, 5, dtype=torch.float64, requires_grad=True) for channels in (3, 1))
        with dispatch.trace() as calls, Concatenations() as concatenations:
            if model is fused:
                output = model(x, first=before, beside=beside)
            else:
                output = model(torch.cat((x if before is None else before(x), beside), 1))
        links = linked(op for op, _ in calls)
        output.square().sum().backward()
        leaves = [x, beside, *model.parameters(), *(before.parameters() if before else ())]
        results.append((links, concatenations.count, [output.detach(), *(leaf.grad for leaf in leaves)]))
    links, concatenated, mine = results[0]
    expected = {"link": 2, "norm then link": 1, "first then link": 1, "first convolution": 1, "first twice": 2}
    assert links == expected.get(start, 0)
    assert concatenated == (start not in ("link", "first then link", "first twice"))
    for i, (one, other) in enumerate(zip(mine, results[1][2], strict=True)):
        assert_tight(f"{i}", one, other)


@pytest.mark.parametrize("fuse", [True, False])
def test_channels_that_do_not_fit_beside_the_input_raise_torchs_error(fuse):
    up = FusedSequential(ConvTranspose2d(4, 6, 4, 2, 1), BatchNormAct2d(6), fuse=fuse)
    x = torch.randn(4, 3, 4, 5)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match except in dimension 1"):
        up(x, beside=torch.randn(4, 1, 5, 5))
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 5 channels instead"):
        up(x, beside=torch.randn(4, 2, 4, 5))


def test_nested_sequentials_are_one_chain():
    def make():
        one, two, three, four, five, six = layers()
        return [one, nn.Sequential(two, three), nn.Sequential(nn.Sequential(four), FusedSequential(five)), six]

    fused, plain = pair(make)
    compare(fused, plain, draw(), 2)


def test_the_fuse_of_what_is_nested_counts():
    one, two, *others = layers()
    fused = FusedSequential(one, FusedSequential(two, *others, fuse=False), fuse=True).double()
    assert not linked(run(fused, draw())[1])
    fused[1].fuse, fused.fuse = True, False
    assert linked(run(fused, draw())[1]) == 2


def test_identities_of_an_accelerated_model_are_no_layers():
    fused = FusedSequential(
        nn.ConvTranspose2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5),
        nn.ReLU(), fuse=True,
    ).double()  # fmt: skip
    twin = copy.deepcopy(fused)
    fastgan.accelerate(fused)
    x = draw()
    mine, ops = run(fused, x)
    theirs, others = run(twin, x)
    assert linked(ops) == 2 and not linked(others)
    assert_same(mine, theirs)
    fastgan.restore(fused)
    assert repr(fused) == repr(twin)


def test_second_order():
    fused, plain = pair()
    results = []
    for model in (fused, plain):
        x = torch.linspace(-2, 3, 320, dtype=torch.float64).sin().view(4, 4, 4, 5).requires_grad_()
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        penalty = (grad.flatten(1).norm(dim=1) - 1).square().sum()
        results.append(torch.autograd.grad(penalty, [x, *model.parameters()], materialize_grads=True))
    for mine, theirs in zip(*results, strict=True):
        assert_tight("second order", mine, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant):
    fused, plain = pair()
    x = draw()
    results = []
    for model in (fused, plain):
        leaf = x.clone().requires_grad_()
        torch.utils.checkpoint.checkpoint(model, leaf, use_reentrant=reentrant).square().sum().backward()
        results.append([leaf.grad, *(p.grad for p in model.parameters()), *(b.double() for b in model.buffers())])
    for mine, theirs in zip(*results, strict=True):
        assert_tight("checkpointed", mine, theirs)


def test_autocast():
    """Convolutions in low precision, statistics in float32; by the rule against the layers one by one."""
    fused, plain = pair(dtype=torch.float32)
    x = draw(16, dtype=torch.float32) * 0.1 + 100
    results = []
    for model in (fused, plain):
        with torch.autocast("cpu", torch.bfloat16):
            results.append(run(model, x)[0])
    judge = run(copy.deepcopy(plain).double(), x.double())[0]
    for part in ("output", "grad"):
        parts = [
            torch.cat([tensor.flatten() for name, tensor in result.items() if name.endswith(part)])
            for result in (*results, judge)
        ]
        assert_rule(part, *parts)


def test_it_is_a_sequential():
    fused, plain = pair()
    assert isinstance(fused, nn.Sequential) and list(fused.state_dict()) == list(plain.state_dict())
    assert repr(fused) == repr(plain).replace("Sequential", "FusedSequential", 1)
    part = fused[1:3]
    assert type(part) is FusedSequential and part.fuse and list(part) == list(fused)[1:3]
    assert fused[1] is list(fused)[1] and FusedSequential().fuse is None
    assert list(FusedSequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh()))._modules) == ["a", "b"]
    x = draw()
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert other.fuse
        mine, ops = run(other, x)
        assert linked(ops) == 2
        assert_same(mine, run(copy.deepcopy(plain), x)[0])


def test_without_kernels_the_layers_run():
    fused, _ = pair(dtype=torch.float32)
    fused.fuse = None
    for name in ("reference", "native", "triton", None):
        if name not in (None, "reference") and backend_reason(name, torch.device("cpu")):
            continue
        with fastgan.use_backend(name) if name else contextlib.nullcontext():
            kernels = dispatch.why_not("conv2d_stats", *SAMPLES["conv2d_stats"](torch.device("cpu")))[name or "native"]
            ops = run(fused, draw(dtype=torch.float32))[1]
        assert linked(ops) == (2 if name == "triton" and kernels is None else 0)


@pytest.fixture
def kernels_for_links(monkeypatch):
    """A stand-in for kernels that measurements say are the fastest on a CPU."""
    for op in (op for link in LINKS for op in (link, f"{link}_backward")):
        row = dispatch._table[op]
        native = dispatch.Backend("native", row["reference"].run, dispatch.always, auto_on=frozenset({"cpu"}))
        monkeypatch.setitem(dispatch._table, op, {"native": native, **row})


@compilers_warn
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_dispatch_decides_unless_told(compiled, kernels_for_links):
    torch._dynamo.reset()
    fused, _ = pair()
    model = torch.compile(fused, fullgraph=True, backend="aot_eager") if compiled else fused
    for fuse, links in ((None, 2), (True, 2), (False, 0)):
        fused.fuse = fuse
        assert linked(run(model, draw())[1]) == links
    fused.fuse = None
    with fastgan.use_backend("reference"):
        assert not linked(run(model, draw())[1])
    torch._dynamo.reset()


@compilers_warn
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_as_one_graph(dynamic):
    """Another batch compiles nothing new; running statistics are eager's."""
    torch._dynamo.reset()
    fused, _ = pair()
    eager = copy.deepcopy(fused)
    compiled = torch.compile(fused, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for call, n in enumerate((3, 5, 4) if dynamic else (3, 3)):
        x = draw(n)
        with torch._dynamo.config.patch(error_on_recompile=call > 0):
            mine, ops = run(compiled, x)
        assert linked(ops) == 2
        expected, _ = run(eager, x)
        assert_same({name.removeprefix("_orig_mod."): tensor for name, tensor in mine.items()}, expected)
    torch._dynamo.reset()
