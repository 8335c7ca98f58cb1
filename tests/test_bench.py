"""The benchmark's own rules: nothing wrong gets a figure, everything left out has a reason, losses are losses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import trainer
from bench.__main__ import main
from bench.cases import CASES, Case, Setting
from bench.harness import check, run_case, settings
from bench.networks import plain
from bench.report import markdown
from bench.timing import measure
from fastgan import dispatch, models, nn
from fastgan.ops.common import triton_runtime
from fastgan.training import TrainConfig

CPU = torch.device("cpu")


def case_of(text: str, work: str = "forward+backward") -> Case:
    return next(case for case in CASES if text in case.name and case.work == work)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_case_computes_the_same_on_both_sides(case: Case, device: torch.device) -> None:
    pair = case.setup(Setting(device, torch.float32, case.images, batch=2))
    theirs, ours = pair.torch(), pair.fastgan()
    assert ours.keys() == theirs.keys()
    check(pair, ours, theirs, pair.judge())


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
    record = run_case(case_of("DCGAN D 128"), setting, ["reference"], 0.0)
    assert list(record["times"]) == ["torch"]
    assert record["red"]["reference"].startswith("grad input: error")


def test_what_is_not_timed_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_runtime, "interpreting", lambda: False)
    for row in dispatch._table.values():
        for name in {"triton", "native"} & row.keys():
            monkeypatch.setitem(row, name, dataclasses.replace(row[name], supports=lambda *_: "closed today"))
    record = run_case(case_of("128 logits"), Setting(CPU, torch.float32, False), ["auto", *dispatch.BACKENDS], 0.0)
    assert set(record["times"]) == {"torch", "auto"}
    assert record["not_run"] == {
        "reference": "runs the same kernels as auto",
        "triton": "closed today",
        "native": "closed today",
    }
    assert record["ops"]["auto"] == {"bce_with_logits": "reference", "bce_with_logits_backward_": "reference"}


def test_the_interpreter_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_runtime, "interpreting", lambda: True)
    record = run_case(case_of("128 logits"), Setting(CPU, torch.float32, False), ["triton"], 0.0)
    assert list(record["times"]) == ["torch"]
    assert "interpreter" in record["not_run"]["triton"]


def test_timing_is_interleaved_and_summed_up() -> None:
    order: list[str] = []
    times = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, budget=0.0)
    switches = sum(first != second for first, second in itertools.pairwise(order))
    assert switches >= 5
    for time in times.values():
        assert time.rounds == 5 and 0 < time.q20 <= time.median <= time.q80


def test_run_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert main(["run", "--device", "cpu", "--quick", "--only", "128 logits", "--out", str(file)]) == 0
    content = json.loads(file.read_text())
    assert content["complete"] and len(content["cases"]) == 2
    assert {"device", "torch", "triton", "commit", "date", "threads"} <= content["machine"].keys()
    capsys.readouterr()
    assert main(["report", str(file)]) == 0
    assert "| 128 logits | forward+backward | float32 | - | auto: " in capsys.readouterr().out


def test_a_cut_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    arguments = ["run", "--device", "cpu", "--quick", "--only", "128 logits", "--out", str(file), "--minutes", "0"]
    assert main(arguments) == 0
    assert "is not complete" in capsys.readouterr().out


def test_losses_and_wrong_results_are_printed_as_plainly_as_wins() -> None:
    def record(name: str, ours: float, red: dict[str, str]) -> dict[str, Any]:
        times = {who: {"median": t, "q20": 0.9 * t, "q80": 1.1 * t} for who, t in (("torch", 1.0), ("auto", ours))}
        shape = {"group": "op", "case": name, "work": "forward", "dtype": "float32", "layout": "NCHW"}
        return {**shape, "times": times, "ops": {"auto": {"op": "reference"}}, "not_run": {}, "red": red}

    cases = [record("won", 0.5, {}), record("lost", 2.0, {}), record("even", 1.1, {"triton": "output: error 1"})]
    machine = {"device": "X", "cores": 1}
    text = markdown({"machine": machine, "quick": True, "complete": False, "load_before": 3.0, "cases": cases})
    assert "| auto: reference | 1e+03 (900–1.1e+03) | 500 (450–550) | 2.00 | faster |" in text
    assert "| 0.50 | slower |" in text and "| 0.91 | equal |" in text
    assert "triton | no figure: output: error 1 | | | wrong |" in text
    mean = math.exp((math.log(2) + math.log(0.5) + math.log(1 / 1.1)) / 3)
    assert f"| op | forward | float32 | 3 | {mean:.2f} | 0.50 | 2.00 |" in text
    assert "The run was cut" in text and "Other work ran on this machine" in text


def test_both_memory_formats_and_a_gpu_gets_two_dtypes() -> None:
    layer, loss = case_of("DCGAN D 128"), case_of("128 logits")
    assert [s.channels_last for s in settings(layer, CPU, quick=True)] == [False, True]
    assert {s.dtype for s in settings(layer, torch.device("cuda"), quick=True)} == {torch.float32, torch.bfloat16}
    assert len(settings(loss, CPU, quick=True)) == 1


def test_where_the_seconds_of_a_training_go() -> None:
    shares = trainer.overhead(TrainConfig("gan", "digits", steps=4, batch_size=8, log_every=2, save_every=2))
    assert shares["steps"] == 4
    parts = ("draws", "gradient norms", "log, checkpoints, pictures")
    assert all(shares[part] > 0 for part in parts)
    assert sum(shares[part] for part in parts) == pytest.approx(shares["all that is the trainer's"])
    assert shares["all that is the trainer's"] < 1
