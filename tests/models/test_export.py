"""torch.export of every generator, there and back through a file; ONNX of every generator, run by onnxruntime."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy
import pytest
import torch

from fastgan import dispatch, models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

GENERATORS = {
    "gan": models.GANGenerator,
    "dcgan": models.DCGANGenerator,
    "dcgan_same": lambda: models.DCGANGenerator(kernel_size=5, padding="same"),
    "dcgan_64": lambda: models.DCGANGenerator(image_size=64),
    "cgan": models.CGANGenerator,
}
generators = pytest.mark.parametrize("name", GENERATORS)
CLOSE = 1e-5  # what ONNX's runtime may differ by from torch


def generator(name):
    """With weights of a size at which images fill their range, and statistics of some training."""
    torch.manual_seed(0)
    network = GENERATORS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                fan = math.prod(parameter.shape[1:]) if parameter.dim() == 2 else parameter[0].numel()
                parameter.normal_(0, (2 / fan) ** 0.5)
        for _ in range(3):
            network(*inputs(network, 16))
    return network.eval()


def inputs(network, n):
    labels = (torch.arange(n) % 10,) if hasattr(network, "classes") else ()
    return (torch.randn(n, network.z_dim), *labels)


def by_our_ops(network, args):
    """What the network's ops compute, which a program holds; where nobody looks, small calls are left to torch's."""
    with dispatch.trace():
        return network(*args)


def any_batch(network):
    batch = torch.export.Dim("n", min=2, max=1024)
    return tuple({0: batch} for _ in inputs(network, 2))


@generators
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_export_round_trip(name, strict):
    network = generator(name)
    program = torch.export.export(network, inputs(network, 3), dynamic_shapes=any_batch(network), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for n in (3, 8):
        args = inputs(network, n)
        with torch.no_grad():
            assert torch.equal(loaded(*args), by_our_ops(network, args))


def test_an_exported_program_updates_the_statistics_in_training_mode():
    network = generator("dcgan").train()
    loaded = torch.export.export(network, inputs(network, 3), strict=False).module()
    args = inputs(network, 3)
    assert torch.equal(loaded(*args), by_our_ops(network, args))
    for (label, mine), theirs in zip(loaded.named_buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs), label


def test_an_exported_program_is_for_inference():
    """Its ops carry no autograd formula, and say so."""
    network = generator("dcgan")
    loaded = torch.export.export(network, inputs(network, 3), strict=False).module()
    with pytest.raises(RuntimeError, match="has no gradient where it is called by itself"):
        loaded(*inputs(network, 3)).sum().backward()


@generators
def test_onnx(name, tmp_path: Path):
    pytest.importorskip("onnxscript")  # what torch.onnx.export needs
    onnxruntime = pytest.importorskip("onnxruntime")
    network = generator(name)
    args, path = inputs(network, 3), tmp_path / "generator.onnx"
    torch.onnx.export(network, args, path, dynamo=True, dynamic_shapes=any_batch(network), verbose=False)
    session = onnxruntime.InferenceSession(path)
    for n in (3, 8):
        args = inputs(network, n)
        names = [entry.name for entry in session.get_inputs()]
        (images,) = session.run(None, {key: arg.numpy() for key, arg in zip(names, args, strict=True)})
        with torch.no_grad():
            expected = network(*args).numpy()
        assert numpy.abs(expected).max() > 0.5  # there is something to compare
        assert numpy.abs(images - expected).max() <= CLOSE


def test_onnx_holds_no_op_of_ours(tmp_path: Path):
    """Whatever runs ONNX runs it."""
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    network, path = generator("dcgan"), tmp_path / "generator.onnx"
    torch.onnx.export(network, inputs(network, 3), path, dynamo=True, verbose=False)
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert "ConvTranspose" in {node.op_type for node in nodes}
