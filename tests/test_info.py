"""``fastgan info``: complete, readable, and the same as what dispatch does."""

from __future__ import annotations

import json

import pytest
import torch

import fastgan
from fastgan import dispatch
from fastgan.cli import main
from fastgan.info import SAMPLES, report


def test_every_op_has_typical_arguments_that_run(device: torch.device) -> None:
    assert set(SAMPLES) == set(dispatch.op_names())
    for op, arguments in SAMPLES.items():
        with dispatch.trace() as calls:
            getattr(torch.ops.fastgan, op)(*arguments(device))
        ops = report()["devices"]["cuda:0" if device.type == "cuda" else "cpu"]["ops"]
        assert calls == [(op, ops[op]["runs"])]


def test_it_says_what_runs_and_why_not_the_others() -> None:
    content = report()
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["fastgan"] == fastgan.__version__
    assert {"native_cpu", "native_cuda"} <= set(content["build"])
    for op, state in content["devices"]["cpu"]["ops"].items():
        assert state["backends"]["reference"] == "usable"
        assert set(state["backends"]) == set(dispatch.BACKENDS)
        assert state["runs"] in dispatch.BACKENDS and state["why"], op
    norm = content["devices"]["cpu"]["ops"]["batch_norm_act_train"]
    assert norm["runs"] == ("native" if norm["backends"]["native"] == "usable" else "reference")


def test_a_forced_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with fastgan.use_backend("reference"):
        state = report()["devices"]["cpu"]["ops"]["conv2d"]
    assert (state["runs"], state["why"]) == ("reference", "forced by FASTGAN_BACKEND or use_backend")
    with fastgan.use_backend("native"):
        state = report()["devices"]["cpu"]["ops"]["conv2d_weight"]
    if state["backends"]["native"] != "usable":
        assert state["runs"] is None
        assert state["backends"]["native"] in state["why"]


def test_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"torch: {torch.__version__}" in text
    for op in dispatch.op_names():
        assert f"  {op}: " in text
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report()))


def test_a_wrong_flag_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastgan info: No such option: --yaml")
