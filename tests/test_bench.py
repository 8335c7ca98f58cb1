"""The benchmark's own rules: nothing wrong gets a figure, everything left out has a reason, losses are losses."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import memory, results, run, trainer
from bench.__main__ import main
from bench.case import Case, Setting, keep, settings
from bench.cases import CASES, GROUPS
from bench.ceilings import ceilings
from bench.harness import run_and_check, run_case
from bench.machine import ROOT
from bench.networks import plain
from bench.odd import odd_shapes
from bench.plan import Options
from bench.providers import COMPILED, PROVIDERS, Provider, provider
from bench.timing import measure
from fastgan import dispatch, models, nn
from fastgan.ops.common import triton_runtime
from fastgan.training import TrainConfig

CPU = torch.device("cpu")


def own(name: str) -> list[Provider]:
    return [provider(name)]


def case_of(text: str, work: str = "forward+backward") -> Case:
    return next(case for case in CASES if text in case.name and case.work == work)


# of the odd shapes those that fit: the backends' own tests go through many more; 16M logits only take long
USUAL = [case for case in CASES if case.group != "odd shapes" and "16777216" not in case.name]


@pytest.mark.parametrize("case", USUAL, ids=lambda case: case.id)
def test_every_case_computes_the_same_on_both_sides(case: Case, device: torch.device) -> None:
    work = case.setup(Setting(device, torch.float32, case.images, batch=2))
    run_and_check(work, work.fastgan(), work.torch(keep))


def test_odd_shapes_are_the_same_everywhere_and_cover_what_they_should() -> None:
    first, second = odd_shapes(), odd_shapes()
    assert [case.id for case in first] == [case.id for case in second]
    assert len(first) == 200 and len({case.id for case in first}) == 200
    text = "\n".join(case.name for case in first)
    for part in ("conv2d", "conv_transpose2d", "k3 s1", "k5 s2", "k2 s2", " d2", " g2", " g16"):
        assert part in text
    batches = {case.batches[0] for case in first if case.batches}
    assert min(batches) == 1 and max(batches) > 128


@pytest.mark.parametrize("case", odd_shapes(8), ids=lambda case: case.id)
def test_an_odd_shape_is_what_its_name_says(case: Case, device: torch.device) -> None:
    work = case.setup(Setting(device, torch.float32, False, batch=2))
    theirs, ours = work.torch(keep)(), work.fastgan()()
    assert all(ours[name].shape == theirs[name].shape for name in theirs)
    outputs = int(case.name.split("→")[1].split(",")[0])
    assert theirs["output"].shape[1] == outputs and work.flops() > 0


def test_work_is_counted_as_libraries_do() -> None:
    layer = case_of("DCGAN 512→256", "forward").setup(Setting(CPU, torch.float32, False, batch=2))
    assert layer.flops() == 2 * 2 * (2 * 2) * 512 * 256 * 16
    both = case_of("DCGAN 512→256").setup(Setting(CPU, torch.float32, False, batch=2))
    assert both.flops() == 3 * layer.flops()
    image, weight, output = 2 * 512 * 4, 512 * 256 * 16, 2 * 256 * 16
    assert layer.traffic == 4 * (image + weight + output)
    block = case_of("DCGAN G 512→256").setup(Setting(CPU, torch.float32, False, batch=2))
    assert block.flops() == both.flops()
    block = case_of("DCGAN D 64→128").setup(Setting(CPU, torch.float32, False, batch=2))
    assert block.flops() == 3 * 2 * 2 * (8 * 8) * 64 * 128 * 16
    step = case_of("DCGAN", "step").setup(Setting(CPU, torch.float32, False, batch=2))
    assert step.flops() > 1e9 and step.traffic == 0


LOSS = case_of("128 logits")


def test_every_layer_of_both_networks_is_a_case() -> None:
    covered = {(case.group, case.weight) for case in CASES}
    for network in (models.DCGANGenerator, models.DCGANDiscriminator, models.CGANGenerator, models.CGANDiscriminator):
        for module in network().modules():
            for op, kind in (("conv_transpose2d", nn.ConvTranspose2d), ("conv2d", nn.Conv2d)):
                if isinstance(module, kind):
                    assert (op, tuple(module.weight.shape)) in covered


def test_the_plain_networks_hold_no_layer_of_ours() -> None:
    for network in (models.DCGANGenerator(), models.CGANDiscriminator()):
        twin = plain(network)
        assert not any(type(module).__module__.startswith("fastgan.nn") for module in twin.modules())
        assert any(type(module).__module__.startswith("fastgan.nn") for module in network.modules())
        assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in network.parameters())


def test_a_wrong_result_gets_no_figure(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    row = dispatch._table["batch_norm_act_backward"]
    honest = row["reference"].run

    def spoiled(*args: Any) -> Any:
        first, *rest = honest(*args)
        return (first * 1.001, *rest)

    monkeypatch.setitem(row, "reference", dataclasses.replace(row["reference"], run=spoiled))
    setting = Setting(device, torch.float32, False, batch=4)
    record = run_case(case_of("DCGAN D 128 at"), setting, own("reference"), 0.0)
    assert list(record["times"]) == ["torch"]
    assert record["red"]["reference"].startswith("grad of input: error")


def test_an_exception_of_ours_is_a_wrong_result_and_a_peers_is_a_reason() -> None:
    def broken(*_: Any) -> Any:
        raise IndexError("out of range\nand more")

    ours, theirs = Provider("ours", broken, ours=True), Provider("theirs", broken)
    record = run_case(LOSS, Setting(CPU, torch.float32, False), [ours, theirs], 0.0)
    assert record["red"] == {"ours": "IndexError: out of range"}
    assert record["not_run"] == {"theirs": "IndexError: out of range"}
    assert list(record["times"]) == ["torch"]


def test_what_is_not_timed_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_runtime, "interpreting", lambda: False)
    for row in dispatch._table.values():
        for name in {"triton", "native"} & row.keys():
            monkeypatch.setitem(row, name, dataclasses.replace(row[name], supports=lambda *_: "closed today"))
    ours = [p for p in PROVIDERS if p.ours]
    record = run_case(LOSS, Setting(CPU, torch.float32, False), ours, 0.0)
    assert set(record["times"]) == {"torch", "auto"}
    assert record["not_run"] == {
        "reference": "runs the same kernels as auto",
        "triton": "closed today",
        "native": "closed today",
    }
    assert record["ops"]["auto"] == {"bce_with_logits": "reference", "bce_with_logits_backward_": "reference"}


def test_the_interpreter_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_runtime, "interpreting", lambda: True)
    record = run_case(LOSS, Setting(CPU, torch.float32, False), own("triton"), 0.0)
    assert list(record["times"]) == ["torch"]
    assert "interpreter" in record["not_run"]["triton"]


def test_peers_that_are_not_there_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inplace_abn", None)
    peers = [p for p in PROVIDERS if p.name in ("inplace-abn", "flag-gems")]
    norm = run_case(case_of("DCGAN D 128 at", "forward"), Setting(CPU, torch.float32, False, batch=2), peers, 0.0)
    assert norm["not_run"] == {
        "inplace-abn": "inplace-abn is not installed",
        "flag-gems": "flag-gems runs on a GPU only",
    }
    loss = run_case(LOSS, Setting(CPU, torch.float32, False), peers, 0.0)
    assert loss["not_run"]["inplace-abn"] == "inplace-abn has batch norm + activation only"


def test_a_peer_that_is_there_is_checked_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def inplace_abn(x: Any, weight: Any, bias: Any, *rest: Any) -> torch.Tensor:
        mean, var, training, momentum, eps, activation, slope = rest
        assert (training, activation, slope) == (True, "leaky_relu", 0.2)
        y = torch.nn.functional.batch_norm(x, mean, var, weight.abs() + eps, bias, True, momentum, eps)
        return torch.nn.functional.leaky_relu(y, slope)

    monkeypatch.setitem(sys.modules, "inplace_abn", types.SimpleNamespace(inplace_abn=inplace_abn))
    setting = Setting(CPU, torch.float32, False, batch=2)
    record = run_case(case_of("DCGAN D 128 at"), setting, own("inplace-abn"), 0.0)
    assert set(record["times"]) == {"torch", "inplace-abn"} and not record["red"]
    refused = run_case(case_of("DCGAN G 128 at"), setting, own("inplace-abn"), 0.0)
    assert refused["not_run"]["inplace-abn"].startswith("inplace-abn has no relu")


@pytest.mark.parametrize("text, work", [("DCGAN D 128 at", "forward+backward"), ("DCGAN", "step")])
def test_the_compiler_is_given_torchs_own_code(text: str, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[Any] = []

    def compile(function: Any, **options: Any) -> Any:
        assert options["fullgraph"]
        wrapped.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    setting = Setting(CPU, torch.float32, False, batch=2)
    record = run_case(case_of(text, work), setting, [COMPILED["default"]], 0.0)
    assert set(record["times"]) == {"torch", "torch.compile"}
    assert len(wrapped) == (2 if work == "step" else 1)
    modules = [m for function in wrapped if isinstance(function, torch.nn.Module) for m in function.modules()]
    assert not any(type(module).__module__.startswith("fastgan.nn") for module in modules)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", COMPILED.values(), ids=COMPILED)
def test_the_compiler_really_compiles(compiled: Provider) -> None:
    setting = Setting(CPU, torch.float32, False, batch=2)
    record = run_case(case_of("DCGAN D 128 at", "forward"), setting, [compiled], 0.0)
    assert set(record["times"]) == {"torch", compiled.name}, record["not_run"]


def test_timing_is_interleaved_and_summed_up() -> None:
    order: list[str] = []
    times = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, budget=0.0)
    switches = sum(first != second for first, second in itertools.pairwise(order))
    assert switches >= 5
    for time in times.values():
        assert time.rounds == 5 and 0 < time.q20 <= time.median <= time.q80


@pytest.fixture
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.ceilings.GEMM_SIZE", {"cpu": 64})
    monkeypatch.setattr("bench.ceilings.COPY_BYTES", {"cpu": 1 << 16})


@pytest.mark.usefixtures("small_ceilings")
def test_run_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, threads = tmp_path / "result.json", torch.get_num_threads()
    arguments = ["--device", "cpu", "--quick", "--only", " 128 logits", "--out", str(file), "--threads", "1", "2"]
    assert main(["run", *arguments]) == 0
    assert torch.get_num_threads() == threads
    content = results.read(file)
    assert content["complete"]
    assert [record["threads"] for record in content["cases"]] == [1, 1, 2, 2]
    assert [roof["threads"] for roof in content["ceilings"]] == [1, 2]
    assert {"device", "torch", "triton", "commit", "date", "cores"} <= content["machine"].keys()
    assert {record["not_run"]["torch.compile"] for record in content["cases"]} == {"only with --compile"}
    capsys.readouterr()
    assert main(["report", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| 128 logits | forward+backward | float32 | 128 | - | 2 | auto: " in printed
    assert "Ceilings on 2 threads: " in printed
    assert "* bce_with_logits, torch.compile: only with --compile" in printed


@pytest.mark.usefixtures("small_ceilings")
def test_a_cut_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    arguments = ["run", "--device", "cpu", "--quick", "--only", "128 logits", "--out", str(file), "--minutes", "0"]
    assert main(arguments) == 0
    assert "is not complete" in capsys.readouterr().out
    assert results.read(file)["complete"] is False


@pytest.mark.usefixtures("small_ceilings")
def test_a_wrong_result_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = dispatch._table["bce_with_logits"]
    spoiled = {name: dataclasses.replace(b, run=lambda *args: torch.zeros(())) for name, b in row.items()}
    for name, backend in spoiled.items():
        monkeypatch.setitem(row, name, backend)
    arguments = ["--device", "cpu", "--quick", "--only", " 128 logits, forward", "--out", str(tmp_path / "r.json")]
    assert main(["run", *arguments]) == 1


def test_groups_and_batches_are_chosen() -> None:
    options = Options(CPU, groups=["inference", "batch_norm_act"], batches=[1, 16])
    assert {case.group for case in options.cases()} == {"inference", "batch_norm_act"}
    sizes = {case.group: {s.batch for s in options.settings(case)} for case in options.cases()}
    assert sizes == {"inference": {1, 64}, "batch_norm_act": {1, 16}}
    usual = case_of("DCGAN D 128 at")
    assert {s.batch for s in Options(CPU).settings(usual)} == {128}
    assert {s.batch for s in Options(CPU, quick=True).settings(usual)} == {32}
    assert GROUPS[0] == "training step" and GROUPS[-1] == "odd shapes"


def test_both_memory_formats_and_a_gpu_gets_two_dtypes() -> None:
    layer = case_of("DCGAN D 128 at")
    assert [s.channels_last for s in settings(layer, CPU, (32,))] == [False, True]
    assert {s.dtype for s in settings(layer, torch.device("cuda"), (32,))} == {torch.float32, torch.bfloat16}
    assert {s.dtype for s in settings(odd_shapes(1)[0], torch.device("cuda"), (32,))} == {torch.float32}
    assert len(settings(LOSS, CPU, (32,))) == 1


@pytest.mark.usefixtures("small_ceilings")
def test_the_ceilings_are_measured() -> None:
    found = ceilings(CPU, 0.0)
    assert found["threads"] == torch.get_num_threads()
    assert found["gemm_gflops"] > 0 and found["copy_gbs"] > 0


LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")


@LINUX
def test_peak_memory_is_that_of_the_tensors() -> None:
    """8 logits need nothing; 4M logits at least their own 16 MiB and the gradient's."""
    code = (
        "import torch; from bench import memory; from bench.case import Setting; from bench.ops import loss\n"
        "setting = Setting(torch.device('cpu'), torch.float32, False)\n"
        "for n in (8, 1 << 22): print(memory.growth(loss(n)[1], 'torch', setting))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    little, much = map(int, done.stdout.split())
    assert little < 4 << 20
    assert much > 16 << 20


@LINUX
def test_peak_memory_is_asked_of_a_fresh_process() -> None:
    assert memory.peak(LOSS, "auto", Setting(CPU, torch.float32, False)) >= 0
    broken = dataclasses.replace(LOSS, name="no such case")
    with pytest.raises(memory.NotMeasuredError, match="StopIteration"):
        memory.peak(broken, "auto", Setting(CPU, torch.float32, False))


def test_a_step_has_its_peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(case: Case, name: str, setting: Setting) -> int:
        if name == "torch":
            return 200
        raise memory.NotMeasuredError("because")

    monkeypatch.setattr(memory, "peak", peak)
    record: dict[str, Any] = {"times": {"torch": {}, "auto": {}, "torch.compile": {}}, "memory": {}}
    run._peaks(record, case_of("DCGAN", "step"), Setting(CPU, torch.float32, False))
    assert record["memory"] == {"torch": 200}
    assert record["memory_not_measured"]["auto"] == "because"
    assert "torch.compile" in record["memory_not_measured"]


def test_where_the_seconds_of_a_training_go() -> None:
    shares = trainer.overhead(TrainConfig("gan", "digits", steps=4, batch_size=8, log_every=2, save_every=2))
    assert shares["steps"] == 4
    parts = ("draws", "gradient norms", "log, checkpoints, pictures")
    assert all(shares[part] > 0 for part in parts)
    assert sum(shares[part] for part in parts) == pytest.approx(shares["all that is the trainer's"])
    assert shares["all that is the trainer's"] < 1
