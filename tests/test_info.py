"""``fastgan info``: complete, readable, and the same as what dispatch does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan import dispatch
from fastgan.cli import main
from fastgan.info import SAMPLES, report
from fastgan.tuning import machine, store


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


def test_the_table_of_measured_times_is_described(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fastgan.forget_tuning()
    state = report()["devices"]["cpu"]["tuning"]
    path = Path(state.pop("file"))
    assert path.parent == tmp_path / "fastgan" / "tuning" and not path.parent.exists()
    assert state == {"entries": 0, "apply": 0, "in_use": False, "wrong": None}
    op, threads = "conv2d", torch.get_num_threads()
    arguments = SAMPLES[op](torch.device("cpu"))
    keys = [(op, False, *dispatch._keys[op](*arguments), (count,)) for count in (threads, threads + 1)]
    times = {"reference": 1.0, "native": 2.0}
    store.add(path, machine.identity(torch.device("cpu")), dict.fromkeys(keys, times))
    fastgan.load_tuning()
    try:
        content = report()["devices"]["cpu"]
        assert main(["info"]) == 0
    finally:
        fastgan.forget_tuning()
    assert content["tuning"] == {"file": str(path), "entries": 2, "apply": 1, "in_use": True, "wrong": None}
    assert (content["ops"][op]["runs"], content["ops"][op]["why"]) == (
        "reference",
        "the fastest when it was measured here",
    )
    assert f"  tuning: {path}, 2 measured calls, 1 with these settings; in use" in capsys.readouterr().out
    path.write_text("not this")
    assert "damaged" in report()["devices"]["cpu"]["tuning"]["wrong"]
    assert main(["info"]) == 0
    assert f"  tuning: {path} is not used: it is damaged" in capsys.readouterr().out


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
