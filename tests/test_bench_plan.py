"""What a run measures and in which order, what it says when its minutes are over, and CUDA graphs, by stand-ins."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import harness, results, run
from bench.__main__ import main
from bench.case import LOSSES, Case, Results, Setting
from bench.cases import CASES
from bench.plan import FIRST, Options, Task, tasks
from bench.providers import COMPILED, provider
from bench.run import TimeIsUpError
from bench.timing import Time

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BOTH = ("default", "max-autotune")
OPS = ("conv_transpose2d", "conv2d", "batch_norm_act", "bce_with_logits", "discriminator_loss")
GROUPS = ("training step", "block", *OPS)
GPU = Options(CUDA, groups=GROUPS, batches=(128, 1024), minutes=1.0, graphs=True, compiled=BOTH)
LOSS = next(case for case in CASES if case.name == "128 logits" and case.work == "forward+backward")


@pytest.mark.parametrize(
    ("arguments", "modes"),
    [
        ([], ()),
        (["--compile"], ("default",)),
        (["--compile", "max-autotune"], ("max-autotune",)),
        (["--compile", "default", "max-autotune", "default"], BOTH),
    ],
)
def test_modes_of_the_compiler_are_chosen(
    arguments: list[str], modes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Options] = []
    monkeypatch.setattr(run, "run", lambda options: asked.append(options) or 0)
    assert main(["run", "--device", "cpu", *arguments]) == 0
    assert tuple(asked[0].compiled) == modes
    with pytest.raises(SystemExit):
        main(["run", "--compile", "fastest"])


@pytest.mark.parametrize("mode", BOTH)
def test_the_compiler_has_no_cuda_graphs_of_its_own(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        given.update(options["options"])
        return function

    monkeypatch.setattr(torch, "compile", compile)
    setting = Setting(CPU, torch.float32, False)
    COMPILED[mode].make(LOSS.setup(setting), setting)
    assert given.get("max_autotune", False) is (mode == "max-autotune")
    assert not given.get("triton.cudagraphs", False)


def test_without_a_limit_the_order_is_the_registrys() -> None:
    options = Options(CPU, groups=("batch_norm_act", "bce_with_logits"), compiled=BOTH)
    found = tasks(options)
    first, second = ([task for task in found if task.compiler == mode] for mode in ("", "max-autotune"))
    assert len(first) + len(second) == len(found) and len(first) == len(second)
    assert list(dict.fromkeys(task.case.id for task in first)) == [case.id for case in options.cases()]
    assert {COMPILED["default"], provider("auto"), provider("flag-gems")} <= set(first[0].providers)
    assert [p.name for p in second[0].providers] == [
        "auto",
        "reference",
        "triton",
        "native",
        "torch.compile max-autotune",
    ]
    assert not {p for task in tasks(Options(CPU)) for p in task.providers} & set(COMPILED.values())


def test_the_cases_that_come_first_exist_and_are_of_every_kind() -> None:
    ids = {case.id: case.group for case in CASES}
    assert {ids[name] for name in FIRST} == set(GROUPS) - {"conv2d"}


def nchw(task: Task) -> bool:
    return task.case.images and not task.setting.channels_last


def size(task: Task) -> int:
    return 128 if task.case.batches else task.setting.batch


def first(task: Task) -> bool:
    return task.case.id in FIRST and not nchw(task)


def other(task: Task) -> bool:
    return task.case.id not in FIRST and not nchw(task)


def assert_in_turn(found: list[Task], *stages: Callable[[Task], bool]) -> None:
    places = [[index for index, task in enumerate(found) if stage(task)] for stage in stages]
    assert all(places)
    for before, after in itertools.pairwise(places):
        assert max(before) < min(after)


def test_what_matters_is_measured_first_where_the_time_is_limited() -> None:
    found = tasks(GPU)
    assert (found[0].case.id, found[0].setting.dtype, found[0].setting.batch) == (FIRST[0], torch.bfloat16, 128)
    for batch, dtype in itertools.product((128, 1024), (torch.bfloat16, torch.float32)):
        assert_in_turn(
            [task for task in found if size(task) == batch and task.setting.dtype == dtype],
            lambda task: first(task) and task.compiler == "",
            lambda task: first(task) and task.compiler == "default",
            lambda task: other(task) and task.compiler == "",
        )
    assert_in_turn(
        found,
        lambda task: not nchw(task) and size(task) == 128 and task.compiler == "",
        lambda task: not nchw(task) and size(task) == 1024 and task.compiler == "",
        lambda task: first(task) and task.compiler == "max-autotune",
        nchw,
        lambda task: other(task) and task.compiler == "default",
        lambda task: other(task) and task.compiler == "max-autotune",
    )
    rounds = [title for title, _ in itertools.groupby(task.round for task in found)]
    assert len(rounds) == len(set(rounds)) == 16


def test_a_limited_plan_has_every_case_once_by_each_mode() -> None:
    found = tasks(GPU)
    assert {task.case.group for task in found} == set(GROUPS)
    for mode in ("", *BOTH):
        mine = [(task.case.id, task.setting) for task in found if task.compiler == mode]
        wanted = [(case.id, setting) for case in GPU.cases() for setting in GPU.settings(case)]
        if mode:
            wanted = [(name, setting) for name, setting in wanted if setting.channels_last or name.startswith(LOSSES)]
        assert len(mine) == len(set(mine)) and set(mine) == set(wanted)
    compiled = {(task.compiler, p.name) for task in found for p in task.providers if p in COMPILED.values()}
    assert compiled == {("default", "torch.compile"), ("max-autotune", "torch.compile max-autotune")}


def test_the_listing_has_rounds_with_assumed_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cuda", "--list", "--graphs", "--compile", *BOTH, "--batch", "128", "1024"]
    assert main(["run", *arguments, "--minutes", "2", "--group", "training step"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rounds = [line for line in lines if line.startswith("round ")]
    assert rounds[0] == "round 1: batch 128, bfloat16, first cases: 1 training step; until minute 0.1"
    assert len(rounds) == 16 and sum(int(line.split(": ")[2].split()[0]) for line in rounds) == len(lines) - 18
    assert lines[-2].startswith("rounds: assumed, not measured: ") and "of which 2 are given" in lines[-2]
    assert lines[-1].startswith("32 comparisons of 2 cases: torch, auto, reference, triton, native, ")
    assert lines[-1].endswith("torch.compile, torch.compile max-autotune, each without and with CUDA graphs")


@pytest.fixture
def no_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ceilings", lambda *_: {"threads": 1, "gemm_gflops": 1.0, "copy_gbs": 1.0})


@pytest.mark.usefixtures("no_ceilings")
def test_what_the_minutes_do_not_reach_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time is up in the fourth case; before it the file is whole after each."""
    file = tmp_path / "a.json"
    counts: list[int] = []

    def run_case(case: Case, setting: Setting, *_: Any) -> dict[str, Any]:
        if file.exists():
            content = results.read(file)
            counts.append(len(content["cases"]))
            assert len(content["cases"]) + sum(map(len, content["not_reached"].values())) == total
        if len(counts) == 3:
            raise TimeIsUpError
        return harness._blank(case, setting)

    monkeypatch.setattr(run, "run_case", run_case)
    options = Options(CPU, groups=["batch_norm_act"], batches=[2, 4], minutes=5, compiled=["default"], out=file)
    total = len(tasks(options))
    assert run.run(options) == 0
    assert counts == [1, 2, 3]
    content = results.read(file)
    assert not content["complete"] and len(content["cases"]) == 3
    missing = content["not_reached"]
    assert sum(map(len, missing.values())) == total - 3
    assert list(missing) == list(dict.fromkeys(task.round for task in tasks(options)[3:]))
    assert list(missing.values())[-1][-1].endswith("torch.compile")
    assert f"{total - 3} comparisons were not reached" in capsys.readouterr().out
    assert main(["report", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"**The run was cut: {total - 3} of {total} comparisons were not reached.**" in printed
    title, names = next(iter(missing.items()))
    assert f"\n* {title}: {len(names)}\n    * {names[0]}\n" in printed


@pytest.mark.usefixtures("no_ceilings")
def test_a_complete_run_has_reached_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_case", lambda case, setting, *_: harness._blank(case, setting))
    options = Options(CPU, groups=["bce_with_logits"], threads=[1, 2], minutes=5, out=tmp_path / "a.json")
    assert run.run(options) == 0
    content = results.read(tmp_path / "a.json")
    assert content["complete"] and content["not_reached"] == {} and len(content["cases"]) == 20


def test_the_time_limit_reaches_into_what_catches_every_exception() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    with pytest.raises(TimeIsUpError), run._until(began + 0.05):
        while time.monotonic() < began + 30:
            try:
                time.sleep(1)
            except Exception:
                continue
    assert time.monotonic() - began < 25
    assert signal.getsignal(signal.SIGALRM) is handler
    with pytest.raises(TimeIsUpError), run._until(began):
        pytest.fail("it is past")
    with run._until(time.monotonic() + 60):
        pass


@pytest.mark.usefixtures("no_ceilings")
def test_a_case_that_torch_cannot_run_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_case(case: Case, setting: Setting, *_: Any) -> dict[str, Any]:
        if case.work == "forward":
            raise torch.OutOfMemoryError("too little\nof it")
        return harness._blank(case, setting)

    monkeypatch.setattr(run, "run_case", run_case)
    options = Options(CPU, only=" 128 logits", out=tmp_path / "a.json")
    assert run.run(options) == 1
    reds = [record["red"] for record in results.read(tmp_path / "a.json")["cases"]]
    assert reds == [{"torch": "OutOfMemoryError: too little"}, {}]


NAMES = ("torch", "reference", "torch.compile", "torch.compile max-autotune")


def graphs_of(
    monkeypatch: pytest.MonkeyPatch, graphed: Callable[[Callable[[], Results]], Any], case: Case = LOSS
) -> dict[str, Any]:
    """A record with graphs that ``graphed`` makes; torch.compile's stand-in compiles nothing."""
    monkeypatch.setattr(harness, "graphed", graphed)
    monkeypatch.setattr(harness, "measure", lambda contenders, *_: dict.fromkeys(contenders, Time(1.0, 1.0, 1.0, 5)))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    providers = [provider(name) for name in NAMES[1:]]
    return harness.run_case(case, Setting(CPU, torch.float32, False, batch=2), providers, 0.0, graphs=True)


@pytest.mark.parametrize("case", [LOSS, CASES[0]], ids=lambda case: case.id)
def test_everybody_is_measured_without_and_with_a_graph(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CASES[0].work == "step"
    monkeypatch.setattr(harness, "_verify", lambda *_: 0.0)  # two images are too few for the rule of a step
    record = graphs_of(monkeypatch, lambda call: call, case)
    assert set(record["times"]) == {*NAMES, *(f"{name}, CUDA graph" for name in NAMES)}


def test_a_graph_that_cannot_be_has_a_reason_and_a_wrong_one_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def graphed(call: Callable[[], Results]) -> Callable[[], Results]:
        turn = next(calls)
        if turn == 2:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return (lambda: {name: value + 1 for name, value in call().items()}) if turn == 1 else call

    record = graphs_of(monkeypatch, graphed)
    assert set(record["times"]) == {*NAMES, "torch, CUDA graph", "torch.compile max-autotune, CUDA graph"}
    assert record["red"]["reference, CUDA graph"].startswith("output: error 1")
    reason = "RuntimeError: operation not permitted when stream is capturing"
    assert record["not_run"] == {"torch.compile, CUDA graph": reason}


def test_without_a_graph_of_torchs_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def graphed(_call: object) -> Any:
        raise RuntimeError("no")

    record = graphs_of(monkeypatch, graphed)
    assert set(record["times"]) == set(NAMES)
    assert record["not_run"] == {"torch, CUDA graph": "RuntimeError: no"}
