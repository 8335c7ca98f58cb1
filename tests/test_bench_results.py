"""What the benchmark says of result files: reports, regressions, bars, pictures and the README's table."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench import bars, compare, readme, results
from bench.__main__ import main
from bench.report import duration, markdown


def time(seconds: float, spread: float = 0.1) -> dict[str, float]:
    return {"median": seconds, "q20": (1 - spread) * seconds, "q80": (1 + spread) * seconds, "rounds": 9}


def record(ours: float | None, group: str = "conv2d", case: str = "A", **more: Any) -> dict[str, Any]:
    """torch takes a second, fastgan ``ours``; None: its result was wrong."""
    times = {"torch": time(1.0)} | ({} if ours is None else {"auto": time(ours)})
    found = {"group": group, "case": case, "work": "forward", "dtype": "float32", "batch": 128, "layout": "NCHW"}
    found |= {"threads": 1, "times": times, "memory": {}, "ops": {"auto": {"op": "reference"}}, "not_run": {}}
    return found | {"red": {} if ours is not None else {"auto": "output: error 1"}} | more


def content(*records: dict[str, Any], **more: Any) -> dict[str, Any]:
    machine = {"device": "X", "cores": 4, "torch": "2.14", "commit": "0123456789abcdef", "date": "2026-11-25"}
    roofs = [{"threads": 1, "gemm_gflops": 50.0, "copy_gbs": 10.0}]
    found = {"format": results.FORMAT, "machine": machine, "quick": False, "complete": True, "load_before": 0.1}
    return found | {"ceilings": roofs, "cases": list(records)} | more


def stored(folder: Path, *records: dict[str, Any], name: str = "a.json") -> Path:
    results.write(folder / name, content(*records))
    return folder / name


def test_losses_and_wrong_results_are_printed_as_plainly_as_wins() -> None:
    even = record(1.1, case="even", red={"triton": "output: error 1"})
    cases = [record(0.5, case="won"), record(2.0, case="lost"), even]
    text = markdown(content(*cases, complete=False, load_before=3.0))
    assert "| auto: reference | 1e+03 (900–1.1e+03) ms | 500 (450–550) ms | 2.00 | faster |" in text
    assert "| 0.50 | slower |" in text and "| 0.91 | equal |" in text
    assert "triton | no figure: output: error 1 | | | wrong |" in text
    mean = math.exp((math.log(2) + math.log(0.5) + math.log(1 / 1.1)) / 3)
    assert f"| conv2d | forward | float32 | 128 | 1 | 3 | {mean:.2f} | 0.50 | 2.00 |" in text
    assert "The run was cut" in text and "Other work ran on this machine" in text
    assert "Ceilings on 1 thread: 50 GFLOP/s (float32 GEMM), 10 GB/s (copy)." in text


def test_each_form_of_torch_has_a_column_with_wins_losses_and_counts() -> None:
    def times(**seconds: float) -> dict[str, Any]:
        return {name.replace("_", " "): time(value) for name, value in seconds.items()}

    backends = {"auto": {}, "triton": {}}
    graph = {"torch, CUDA graph": time(0.4), "auto, CUDA graph": time(0.5), "triton, CUDA graph": time(0.2)}
    first = record(0.5, ops=backends, times=times(torch=1.0, auto=0.5, triton=2.0) | graph)
    second = record(0.5, case="B", ops=backends, times=times(torch=1.0, auto=2.0, triton=0.5))
    compiled = {"torch": time(1.0), "auto": time(0.5), "torch.compile": time(0.25)}
    beside = record(0.5, compiler="default", ops=backends, times=compiled)
    text = markdown(content(first, second, beside))
    assert "| torch | torch, CUDA graph | torch.compile | default below 1 | fastest below 1 |" in text
    row = "| 1.00 / 2.00 (2) | 0.80 / 2.00 (1) | 0.50 / 0.50 (1) | 3 of 4, worst 0.50 | 1 of 4, worst 0.50 |"
    assert f"| conv2d | forward | float32 | 128 | 1 {row}" in text
    assert "Beside each form" not in markdown(content(record(0.5)))


def test_a_mode_of_the_compiler_has_a_record_of_its_own(tmp_path: Path) -> None:
    """In which ours is compared with it, and which does not take the place of the other."""
    usual = record(0.3, times={"torch": time(1.0), "auto": time(0.3)})
    times = {"torch": time(1.0), "auto": time(0.4), "torch.compile": time(0.8)}
    beside = record(0.5, compiler="default", times=times)
    found = results.records_of([stored(tmp_path, usual, beside)])
    assert [each.get("compiler", "") for each in found] == ["", "default"]
    assert list(results.ratios(found, "torch.compile").values()) == [pytest.approx(2.0)]
    slower = beside | {"times": times | {"auto": time(4.0)}}
    regressed = compare.compare(content(usual, beside), content(usual, slower))
    assert len(regressed.slower) == 1 and "auto beside torch.compile default: 10.00 times" in regressed.slower[0]
    assert regressed.count == 2


def test_microseconds_where_they_suit() -> None:
    assert duration(time(2e-5)) == "20 (18–22) µs"
    assert duration(time(2e-3)) == "2 (1.8–2.2) ms"


def test_peak_memory_is_in_the_report() -> None:
    step = record(1.0, memory={"torch": 200_000_000, "auto": 100_000_000}, memory_not_measured={"native": "because"})
    text = markdown(content(step))
    assert "| auto | 100.0 | 0.50 |" in text and "| native | not measured: because | - |" in text
    assert "Peak memory" not in markdown(content(record(1.0)))


def test_each_side_has_its_better_memory_format() -> None:
    first = record(0.5) | {"times": {"torch": time(1.0), "auto": time(0.5)}}
    second = record(0.4, layout="NHWC") | {"times": {"torch": time(0.8), "auto": time(0.6)}}
    assert list(results.ratios([first, second]).values()) == [pytest.approx(0.8 / 0.5)]


def test_of_two_files_the_later_one_counts(tmp_path: Path) -> None:
    first = stored(tmp_path, record(0.5), record(1.0, case="B"))
    second = stored(tmp_path, record(0.25), name="b.json")
    found = {key.case: ratio for key, ratio in results.ratios(results.records_of([first, second])).items()}
    assert found == {"A": 4.0, "B": 1.0}


def test_a_file_is_what_was_written(tmp_path: Path) -> None:
    """To five digits, a record a line, reasons that several records have once."""
    first, second = {"triton": "no GPU"}, {"native": "not built"}
    written = [
        record(0.5, not_run=first),
        record(1 / 3, case="B", not_run=second),
        record(0.5, case="→", not_run=first),
    ]
    path = stored(tmp_path, *written)
    found = results.read(path)["cases"]
    assert [each["not_run"] for each in found] == [first, second, first]
    assert found[1]["times"]["auto"]["median"] == 0.33333 and [found[0], found[2]] == [written[0], written[2]]
    text = path.read_text()
    assert text.count("no GPU") == 1 and sum('"case": ' in line for line in text.splitlines()) == 3
    assert results.read(stored(tmp_path)) == content()


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"cases": []}))
    with pytest.raises(ValueError, match="format None, expected 3"):
        results.read(tmp_path / "old.json")


def test_compare_takes_ratios_of_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine twice as slow for both is no regression; what is slower beside torch is."""
    slow_day = record(1.0, times={"torch": time(2.0), "auto": time(1.0)})
    before, after = stored(tmp_path, record(0.5)), stored(tmp_path, slow_day, name="b.json")
    assert main(["compare", str(before), str(after)]) == 0
    worse = stored(tmp_path, record(1.0), name="c.json")
    capsys.readouterr()
    assert main(["compare", str(before), str(worse)]) == 1
    printed = capsys.readouterr().out
    assert "slower: 1\n  conv2d: A, forward, float32, batch 128, NCHW, 1 thread, auto: 2.00 times the time" in printed
    assert main(["compare", str(worse), str(before)]) == 0
    assert "faster: 1\n" in capsys.readouterr().out


def test_compare_allows_what_the_quantiles_and_the_threshold_do() -> None:
    def pair(before: float, after: float, spread: float) -> bool:
        old, new = (record(0, times={"torch": time(1.0, spread), "auto": time(t, spread)}) for t in (before, after))
        return compare.compare(content(old), content(new)).regressed

    assert pair(0.5, 0.7, spread=0.01)
    assert not pair(0.5, 0.7, spread=0.1)
    assert not pair(0.5, 0.52, spread=0.001)


def test_compare_tells_of_wrong_and_missing_figures() -> None:
    found = compare.compare(content(record(0.5), record(0.5, case="B")), content(record(None)))
    assert found.regressed and found.wrong[0].endswith("auto: output: error 1")
    assert len(found.gone) == 1 and "B" in found.gone[0] and found.count == 0
    assert not compare.compare(content(record(0.5)), content()).regressed


def test_compare_watches_the_memory_too() -> None:
    old = content(record(1.0, memory={"torch": 100, "auto": 90}))
    assert compare.compare(old, content(record(1.0, memory={"torch": 100, "auto": 120}))).regressed
    assert not compare.compare(old, content(record(1.0, memory={"torch": 120, "auto": 110}))).regressed


def every_bar(ours: float, compiled: float = 1.0) -> list[dict[str, Any]]:
    """A record for each case that a bar wants."""
    made = []
    for bar in bars.BARS:
        for index in range(bar.count):
            case = {"group": bar.group, "case": f"{bar.case} {index}" if bar.count > 1 else bar.case, "work": bar.work}
            times = {"torch": time(1.0), "auto": time(ours), "torch.compile": time(compiled)}
            made.append(record(ours) | case | {"batch": bar.batch or 7, "times": times})
    for case, work in itertools.product(("BN + ReLU", "BN + LeakyReLU"), ("forward", "forward, recorded")):
        times = {"torch": time(1e-5), "auto": time(1e-5 * 2 * ours)}
        made.append(record(ours, "tiny calls", case, work=work, batch=2, times=times))
    for step in made:
        step["memory"] = {"torch": 100, "auto": round(100 * 2 * ours)}
    return list({(results.Key.of(r), r["layout"]): r for r in made}.values())


def test_every_bar_can_be_met_and_missed() -> None:
    lines = bars.bars(every_bar(0.2))
    assert len(lines) == 24 and {line.met for line in lines} == {"yes"}
    slow = bars.bars(every_bar(2.0))
    assert all(line.met.startswith("no, missed by") for line in slow)
    first = slow[0]
    assert (first.bar, first.measured, first.met) == ("geometric mean at least 2.5", "0.50", "no, missed by 80%")
    assert "met" in bars.markdown(every_bar(0.2)) and "24 of 24 bars are met." in bars.markdown(every_bar(0.2))


def test_a_bar_with_a_case_missing_is_not_met() -> None:
    found = [r for r in every_bar(0.2) if not (r["group"] == "conv2d" and r["case"].endswith("0"))]
    line = next(line for line in bars.bars(found) if line.work.startswith("conv2d"))
    assert line.met == "not measured" and "(3 of 4 cases)" in line.measured
    assert {line.met for line in bars.bars([record(1.0, "other")])} == {"not measured"}


def test_bars_are_held_for_each_number_of_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = every_bar(0.2), [r | {"threads": 2} for r in every_bar(2.0)]
    files = [stored(tmp_path, *one), stored(tmp_path, *two, name="b.json")]
    assert main(["bars", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "24 of 48 bars are met." in printed
    assert "| conv2d forward + backward, D's four layers | 2 | worst at least 1 | 0.50 (DCGAN 0) | no, " in printed


def test_the_bars_name_cases_that_exist() -> None:
    from bench.cases import CASES

    for bar in bars.BARS:
        named = [c for c in CASES if (c.group, c.work) == (bar.group, bar.work) and c.name.startswith(bar.case)]
        assert len(named) == bar.count, bar.text
    tiny = [c for c in CASES if c.group == "tiny calls" and c.name.startswith("BN") and "backward" not in c.work]
    assert len(tiny) == bars.OVERHEAD_CASES


def test_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    first = record(0.5, flops=2e9, traffic=4_000_000)
    odd = record(0.9, "odd shapes", flops=1e6, traffic=1000, batch=3)
    file = stored(tmp_path, first, odd, record(1.5, "training step", "DCGAN"))
    assert main(["report", str(file), "--plots", str(tmp_path / "plots")]) == 0
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"ratios-1-threads.png", "odd-shapes-1-threads.png", "roofline-1-threads.png"}
    for path in (tmp_path / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_the_table_of_the_readme_is_what_the_command_generates() -> None:
    """`python -m bench report --readme` after new results, and it is."""
    text = readme.README.read_text()
    assert text == readme.with_table(text, readme.table(readme.committed()))


def test_the_readme_table(tmp_path: Path) -> None:
    cases = [record(0.5), record(2.0, case="B"), record(0.5, threads=2), record(0.5, batch=16, case="C")]
    cases += [record(0.5, "inference", "DCGAN G", batch=1), record(0.5, "odd shapes", "x", batch=3)]
    text = readme.table([stored(tmp_path, *cases)])
    assert text.startswith("**X, float32, torch 2.14, commit 0123456789ab, 2026-11-25.**\n")
    assert "| conv2d, forward, batch 128 | 2 | 1.00 (0.50 – 2.00) | 2.00 |" in text
    assert "batch 16" not in text
    assert "| DCGAN generator at work, batch 1 | 1 | 2.00 | - |" in text
    assert "| odd shapes, forward | 1 | 2.00 | - |" in text
    page = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.with_table(page, "new\n") == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    with pytest.raises(ValueError, match="bench:begin"):
        readme.with_table("no markers", "new")


def test_report_wants_a_file() -> None:
    with pytest.raises(SystemExit):
        main(["report"])
