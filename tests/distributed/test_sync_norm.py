"""Two ranks with a share of the batch each against torch in one process with the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.checks import assert_rule, assert_tight, assert_torch_layout, backend_reason
from tests.distributed import workers
from tests.ops.cases import LAYOUTS, activations, batch_norm_tensors

SLOPE = 0.2
FLOAT64 = torch.float64


def whole(activation="relu", **options):
    """torch's layers in one process, with parameters and statistics that are not the initial ones."""
    act = {"none": nn.Identity, "relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(SLOPE)}[activation]
    norm = nn.BatchNorm2d(3, **options)
    _, weight, bias, _ = batch_norm_tensors((4, 3, 5, 5))
    for name, values in {"weight": weight, "bias": bias, "running_mean": bias * 3, "running_var": weight.abs()}.items():
        if getattr(norm, name) is not None:
            getattr(norm, name).data.copy_(values)
    return nn.Sequential(norm, act())


def shares(tensor, sizes):
    """What each rank gets; copies, so that a rank's strides are those of its share."""
    return [part.clone() for part in tensor.split(sizes)]


class Run:
    """One step of all ranks and of torch, for ``forwards`` batches and one backward."""

    def __init__(self, ranks, activation, dtype, sizes=(4, 4), forwards=1, layout="nchw", backend="reference",
                 autocast=False, mean=0.5, std=1.0, **options):  # fmt: skip
        self.sizes = list(sizes)
        batches = [batch_norm_tensors((sum(sizes), 3, 5, 5), mean + n, std) for n in range(forwards)]
        pairs = [(LAYOUTS[layout](x.to(dtype)), LAYOUTS[layout](grad.to(dtype))) for x, _, _, grad in batches]
        layer = whole(activation, **options)
        state = copy.deepcopy(layer[0].state_dict())
        mine = [[tuple(t.split(self.sizes)[rank] for t in pair) for pair in pairs] for rank in range(2)]
        settings = {"activation": activation, "negative_slope": SLOPE, **options}
        self.ranks = ranks(workers.layer_steps, state, mine, settings, backend, autocast)
        low = torch.float32 if autocast else dtype
        self.torch = self.one_process(copy.deepcopy(layer).to(low), pairs)
        self.judge = self.one_process(layer.double(), [(x.double(), g.double()) for x, g in pairs])

    def one_process(self, layer, pairs):
        inputs = [x.detach().requires_grad_() for x, _ in pairs]
        outputs = [layer(x) for x in inputs]
        grads = torch.autograd.grad(outputs, [*inputs, *layer.parameters()], [g for _, g in pairs])
        buffers = {name: buffer.clone() for name, buffer in layer[0].named_buffers()}
        return {
            "outputs": [output.detach() for output in outputs],
            "inputs": grads[: len(inputs)],
            "parameters": grads[len(inputs) :],
            "buffers": buffers,
            "eval": layer.eval()(inputs[0].detach()).detach(),
        }

    def check(self):
        """The rule for outputs, gradients and statistics; the ranks agree on the latter bit by bit."""
        one, other = self.ranks
        for kind in ("outputs", "inputs"):
            for n, (theirs, judge) in enumerate(zip(self.torch[kind], self.judge[kind], strict=True)):
                self.compare(f"{kind} {n}", torch.cat([one[kind][n], other[kind][n]]), theirs, judge)
        self.compare("eval", torch.cat([one["eval"], other["eval"]]), self.torch["eval"], self.judge["eval"])
        for n, (theirs, judge) in enumerate(zip(self.torch["parameters"], self.judge["parameters"], strict=True)):
            self.compare(f"parameter {n}", one["parameters"][n] + other["parameters"][n], theirs, judge)
        assert list(one["buffers"]) == list(self.torch["buffers"])
        for name, theirs in self.torch["buffers"].items():
            assert torch.equal(one["buffers"][name], other["buffers"][name]), name
            if theirs.is_floating_point():
                self.compare(name, one["buffers"][name], theirs, self.judge["buffers"][name])
            else:
                assert torch.equal(one["buffers"][name], theirs)

    def compare(self, name, mine, theirs, judge):
        if theirs.dtype is FLOAT64:
            assert_tight(name, mine, judge)
        else:
            assert_rule(name, mine, theirs, judge)


@pytest.mark.parametrize("dtype", [FLOAT64, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), (1, 7), (0, 8), (8, 0)], ids=str)
@activations
def test_two_shares_are_the_whole_batch(activation, sizes, dtype, ranks):
    Run(ranks, activation, dtype, sizes).check()


@pytest.mark.parametrize("dtype", [FLOAT64, torch.float32], ids=str)
@activations
def test_two_forwards_and_one_backward(activation, dtype, ranks):
    Run(ranks, activation, dtype, (3, 5), forwards=2).check()


@pytest.mark.parametrize(
    "options",
    [{"momentum": None}, {"momentum": 0.0}, {"momentum": 1.0}, {"affine": False}, {"track_running_stats": False},
     {"eps": 0.1}],
    ids=str,
)  # fmt: skip
def test_options(options, ranks):
    if options.get("track_running_stats") is False:
        # eval mode then takes the statistics of the batch, which is the rank's own
        run = Run(ranks, "relu", FLOAT64, (3, 5), **options)
        for result, part in zip(run.ranks, shares(run.judge["eval"], [3, 5]), strict=True):
            assert result["eval"].shape == part.shape
            result["eval"] = part
        run.check()
    else:
        Run(ranks, "relu", FLOAT64, (3, 5), **options).check()


@pytest.mark.parametrize("layout", ["nhwc", "sliced", "swapped"])
def test_layouts(layout, ranks):
    run = Run(ranks, "leaky_relu", torch.float32, (3, 5), layout=layout)
    run.check()
    for n, rank in enumerate(run.ranks):
        share = LAYOUTS[layout](torch.zeros(8, 3, 5, 5)).split([3, 5])[n]
        assert_torch_layout("output", rank["outputs"][0], torch.empty_like(share))
        assert_torch_layout("gradient", rank["inputs"][0], torch.empty_like(share))


@activations
def test_autocast(activation, ranks):
    """bfloat16 data with float32 parameters and statistics."""
    run = Run(ranks, activation, torch.bfloat16, (3, 5), autocast=True)
    run.check()
    assert run.ranks[0]["outputs"][0].dtype is torch.bfloat16
    assert run.ranks[0]["buffers"]["running_mean"].dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_layers(dtype, ranks):
    Run(ranks, "relu", dtype, (3, 5)).check()


@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_a_mean_far_from_zero(mean, ranks):
    Run(ranks, "none", torch.float32, (3, 5), mean=mean, std=0.1).check()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("sizes", [(3, 5), (0, 8)], ids=str)
@activations
def test_the_triton_kernels(activation, sizes, ranks):
    reason = backend_reason("triton", torch.device("cpu"))
    if reason is not None:
        pytest.skip(reason)
    run = Run(ranks, activation, torch.float32, sizes, backend="triton")
    run.check()
    # the eval forward comes later and outside of the trace
    forward = ["batch_norm_act_stats", "batch_norm_act_eval"]
    backward = ["batch_norm_act_backward_reduce", "batch_norm_act_backward_apply"]
    for rank in run.ranks:
        assert rank["calls"] == [(op, "triton") for op in forward + backward]


def test_ranks_whose_means_differ_much(ranks):
    """The union's variance is then the distance of the means."""
    x = torch.cat([torch.randn(4, 3, 2, 2) + 1e4, torch.randn(4, 3, 2, 2) - 1e4])
    state = nn.BatchNorm2d(3).state_dict()
    parts = [[(part, torch.ones_like(part))] for part in x.split([4, 4])]
    results = ranks(workers.layer_steps, state, parts, {"activation": "none"}, "reference", False)
    output = torch.cat([result["outputs"][0] for result in results])
    assert_rule("output", output, F.batch_norm(x, None, None, training=True),
                F.batch_norm(x.double(), None, None, training=True))  # fmt: skip


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), (0, 8)], ids=str)
@activations
def test_second_order(activation, sizes, ranks):
    layer = whole(activation).double()
    x, _, _, grad = batch_norm_tensors((8, 3, 5, 5))
    pairs = list(zip(x.split(sizes), grad.split(sizes), strict=True))
    state = layer[0].state_dict()
    results = ranks(workers.penalty, state, pairs, activation)
    expected = workers.second_order(layer, x, grad)
    for n, judge in enumerate(expected):
        parts = [result[n] for result in results]
        assert_tight(f"gradient {n}", torch.cat(parts) if judge.dim() == 4 else sum(parts), judge)


def test_a_batch_of_one_value_in_the_group(ranks):
    for shapes in ([(1, 3, 1, 1), (0, 3, 1, 1)], [(0, 3, 1, 1), (1, 3, 1, 1)]):
        for (kind, message), state in ranks(workers.training_forward, shapes):
            assert kind is ValueError
            assert message.startswith("Expected more than 1 value per channel when training")
            assert torch.equal(state["running_mean"], torch.zeros(3))


def test_one_value_on_each_rank_is_enough(ranks):
    for result, state in ranks(workers.training_forward, [(1, 3, 1, 1), (1, 3, 1, 1)]):
        assert result == ((1, 3, 1, 1), (1, 3, 1, 1))
        assert torch.equal(state["running_mean"], torch.full((3,), 0.1))


def test_nothing_on_any_rank(ranks):
    for result, state in ranks(workers.training_forward, [(0, 3, 2, 2), (0, 3, 2, 2)]):
        assert result == ((0, 3, 2, 2), (0, 3, 2, 2))
        assert torch.equal(state["running_mean"], torch.zeros(3))
        assert torch.equal(state["running_var"], torch.ones(3))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 2, 2, 2)], ids=str)
def test_ranks_of_tensors_that_torchs_takes(shape, ranks):
    for result, _ in ranks(workers.training_forward, [shape, shape]):
        assert result == (shape, shape)


def test_an_error_of_the_arguments_comes_before_any_collective(ranks):
    """Else the other ranks would wait."""
    for results in ranks(workers.refused):
        assert [(kind, seen) for kind, _, seen in results] == [
            ("ValueError", []), ("RuntimeError", []), ("TypeError", []), ("ValueError", []),
        ]  # fmt: skip
        assert results[0][1] == "expected at least 2D input (got 1D input)"
        assert "running_mean should contain 4 elements not 3" in results[1][1]


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=str)
def test_one_collective_each_way(needs, ranks):
    for seen in ranks(workers.collectives, needs):
        assert seen == {"forward": ["all_gather"], "backward": ["all_reduce"] if needs[0] else []}


def test_what_is_saved_for_backward(ranks):
    for sizes in ranks(workers.saved_sizes):
        assert sorted(sizes) == [1, 3, 3]  # the number of values, mean, rstd


def test_process_groups(ranks):
    x = torch.randn(8, 3, 2, 2, dtype=torch.float32)
    parts = shares(x, [4, 4])
    for output, part in zip(ranks(workers.groups_of_one, parts), parts, strict=True):
        expected = F.relu(F.batch_norm(part, None, None, training=True))
        judge = F.relu(F.batch_norm(part.double(), None, None, training=True))
        assert_rule("output", output, expected, judge)
    together = torch.cat(ranks(workers.group_of_all, parts))
    expected, judge = (F.relu(F.batch_norm(t, None, None, training=True)) for t in (x, x.double()))
    assert_rule("output", together, expected, judge)


def test_compiled(ranks):
    """torch.compile leaves the layer as it is: collectives inside an autograd.Function break the graph."""
    x = batch_norm_tensors((8, 3, 5, 5))[0]
    for eager, compiled in ranks(workers.compiled_step, whole()[0].state_dict(), shares(x, [3, 5])):
        assert all(torch.equal(one, other) for one, other in zip(eager, compiled, strict=True))
