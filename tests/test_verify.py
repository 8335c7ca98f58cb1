"""``fastgan verify``: green here, red on a planted error, and its rule is the rule of tests/checks.py."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgan import dispatch, verify
from fastgan.cli import main as command_line
from fastgan.verify.cases import Case
from fastgan.verify.rule import judge_result, largest_error
from fastgan.verify.runner import DTYPES, NotRun, Result, applies, no_tf32, verify_case
from fastgan.verify.shapes import CASES
from tests import checks


def main(arguments: list[str]) -> int:
    return command_line(["verify", *arguments])


OPS = {"conv_transpose2d", "conv2d", "batch_norm_act", "binary_cross_entropy_with_logits", "discriminator_loss"}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Only the quickest shapes, some of every op."""
    cases = [case for case in CASES if case.small and case.quick]
    assert {case.op for case in cases} == OPS
    monkeypatch.setattr(verify, "CASES", cases)
    return cases


def test_a_dozen_shapes_per_op() -> None:
    for op in OPS:
        names = [case.name for case in CASES if case.op == op]
        assert len(names) == len(set(names)) >= 12
        assert any(case.quick for case in CASES if case.op == op)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.name}")
def test_every_case_runs_in_float32(case: Case, device: torch.device) -> None:
    for item in verify_case(case, torch.float32, ["reference"], device):
        assert isinstance(item, Result), item
        assert item.verdict.ok, item


def test_green_with_every_dtype_and_layout(few: list[Case], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert main(["--device", "cpu", "--backend", "reference", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    assert "0 break the rule" in text and "FAIL" not in text
    results = json.loads(file.read_text())["results"]
    assert len(results) == int(text.splitlines()[-1].split()[0])
    for op in OPS:
        mine = [entry for entry in results if entry["op"] == op]
        assert {entry["layout"] for entry in mine} == {"NCHW", "NHWC", "strided"}
        expected = {str(d)[6:] for d in DTYPES if applies(next(case for case in few if case.op == op), d)}
        assert {entry["dtype"] for entry in mine} == expected
        first = "grad real_logits" if op == "discriminator_loss" else "grad input"
        assert first in {entry["result"] for entry in mine}
    assert {"grad weight", "grad bias", "running_var"} <= {entry["result"] for entry in results}


def plant(monkeypatch: pytest.MonkeyPatch, op: str, spoil: Any) -> None:
    row = dispatch._table[op]
    honest = row["reference"]
    planted = dataclasses.replace(honest, run=lambda *args: spoil(honest.run(*args)))
    monkeypatch.setitem(row, "reference", planted)


@pytest.mark.parametrize(
    ("op", "function", "result"),
    [
        ("conv_transpose2d", "conv_transpose2d", "output"),
        ("conv2d_weight", "conv2d", "grad weight"),
        ("batch_norm_act_backward", "batch_norm_act", "grad input"),
        ("bce_with_logits", "binary_cross_entropy_with_logits", "output"),
        ("discriminator_loss", "discriminator_loss", "output"),
    ],
)
def test_a_planted_error_is_found_and_named(
    op: str,
    function: str,
    result: str,
    few: list[Case],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def spoil(outcome: Any) -> Any:
        if isinstance(outcome, tuple):
            return (outcome[0] + 1e-3, *outcome[1:])
        return outcome + 1e-3

    plant(monkeypatch, op, spoil)
    assert main(["--device", "cpu", "--backend", "reference"]) == 1
    failures = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  FAIL")]
    assert any(f"FAIL {function}, {result}, float32, NCHW, reference, " in line for line in failures)
    # one convolution is the other's backward
    assert all(("conv" in line) == ("conv" in function) for line in failures)


def test_nan_shape_and_dtype_break_the_rule() -> None:
    judge = torch.ones(3, dtype=torch.float64)
    good = torch.ones(3)
    assert judge_result(good, good, judge).ok
    for bad in (torch.tensor([1.0, 1.0, float("nan")]), torch.ones(2), torch.ones(3).double()):
        assert not judge_result(bad, good, judge).ok


def test_the_rule_is_the_one_of_the_tests() -> None:
    judge = torch.randn(1000, dtype=torch.float64)
    theirs = judge.to(torch.bfloat16)
    for scale in (1e-4, 1e-3, 1e-2, 1e-1):
        ours = (judge + scale * torch.randn_like(judge)).to(torch.bfloat16)
        verdict = judge_result(ours, theirs, judge)
        assert verdict.error == checks.error(ours, judge) == largest_error(ours, judge)
        assert verdict.allowed == checks.bound(theirs, judge)


def test_backends_that_cannot_run_are_listed(few: list[Case], capsys: pytest.CaptureFixture[str]) -> None:
    reasons = dispatch.why_not("conv2d", *_conv_arguments())
    assert main(["--device", "cpu", "--backend", "reference", "--backend", "native", "--quick"]) in (0, 2)
    text = capsys.readouterr().out
    if reasons["native"] is not None:
        assert f"conv2d  native: {reasons['native']}" in text


def test_asking_for_a_backend_that_cannot_run_is_an_error(
    few: list[Case], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for op, row in dispatch._table.items():
        if "triton" in row:
            closed = dataclasses.replace(row["triton"], supports=lambda *_: "closed today")
            monkeypatch.setitem(dispatch._table[op], "triton", closed)
    assert main(["--device", "cpu", "--backend", "triton"]) == 2
    captured = capsys.readouterr()
    assert "conv2d  triton: closed today" in captured.out
    assert captured.err == "fastgan verify: triton was asked for and cannot run here\n"
    # not asked for by name: a line in the report
    assert main(["--device", "cpu"]) == 0
    assert "closed today" in capsys.readouterr().out


def test_the_interpreter_gets_small_shapes_only(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type == "cuda":
        pytest.skip("Triton compiles here")
    asked: list[tuple[Case, list[str]]] = []

    def record(case: Case, dtype: torch.dtype, backends: list[str], _device: torch.device) -> list[Result | NotRun]:
        asked.append((case, backends))
        return []

    monkeypatch.setattr(verify, "verify_case", record)
    verify.verify(device, ["reference", "triton"])
    assert all(("triton" in backends) == case.small for case, backends in asked)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--device", "tpu"], "must be cpu, cuda or cuda:N, got 'tpu'"),
        (["--backend", "cudnn"], "must be one of reference, triton, native, got 'cudnn'"),
        (["--json", "/no/such/folder/x.json"], "cannot write a file '/no/such/folder/x.json'"),
        (["--fast"], "No such option: --fast"),
    ],
)
def test_wrong_flags_are_one_line_and_code_2(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastgan verify: ") and words in line


@pytest.mark.parametrize("before", ["legacy on", "legacy off", "new"])
def test_tf32_is_off_inside_and_as_before_outside(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul

    def state() -> tuple[str, ...]:
        return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision

    try:
        if before == "new":
            cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision = "ieee", "tf32", "tf32"
        else:
            cudnn.allow_tf32 = matmul.allow_tf32 = before == "legacy on"
        outside = state()
        with no_tf32():
            assert "tf32" not in state()
            assert not cudnn.allow_tf32
        assert state() == outside
    finally:
        cudnn.allow_tf32 = matmul.allow_tf32 = False


def _conv_arguments() -> tuple[Any, ...]:
    from fastgan.info import SAMPLES

    return SAMPLES["conv2d"](torch.device("cpu"))
