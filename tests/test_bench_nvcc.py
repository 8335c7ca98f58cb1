"""``python -m bench audit --nvcc``: what it reads in ptxas's report and in machine code, what --check says, and that
the shipped CUDA kernels keep their bars. Nothing here runs nvcc; tests/test_native.py does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import nvcc, nvcc_table, sass
from bench.nvcc import Kernel, Launch, Row, Usage
from bench.nvcc_table import Moved
from tests.cuda_emulator.batch_norm_act import MOST, PASSES

CSRC = Path(__file__).parents[1] / "csrc"
CLUSTER = "_ZN7fastgan14batch_norm_act29batch_norm_act_cluster_kernelI13__nv_bfloat16Li8ELb1EEEvNS0_8OperandsIT_EE"
BACKWARD = "_ZN7fastgan31bce_with_logits_backward_kernelIfLb0EEEvPKT_S3_dPS1_l"
REPORT = f"""ptxas info    : 28 bytes gmem
ptxas info    : Compiling entry function '{CLUSTER}' for 'sm_90'
ptxas info    : Function properties for {CLUSTER}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 536 bytes smem
ptxas info    : Compile time = 62.647 ms
ptxas info    : Compiling entry function '{BACKWARD}' for 'sm_80'
ptxas info    : Function properties for {BACKWARD}
    24 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 39 registers, used 0 barriers, 392 bytes cmem[0]
"""
LISTING = """
	code for sm_90
		Function : one
        /*0100*/                   LDG.E.128.CONSTANT R4, desc[UR8][R2.64] ;   /* 0x128 */
        /*0110*/                   LDG.E.U16 R4, desc[UR8][R2.64] ;
        /*0120*/                   LDGSTS.E.BYPASS.LTC128B.64 [R5], desc[UR8][R2.64] ;
        /*0130*/                   LD.E.64 R4, desc[UR8][R2.64] ;
        /*0140*/                   LDS.128 R4, [R2] ;
        /*0150*/                   LDG.E.64.STRONG.SYS R4, desc[UR8][R2.64] ;
        /*0160*/                   ST.E.128 desc[UR8][R2.64], R4 ;
        /*0170*/                   STG.E desc[UR8][R2.64], R4 ;
        /*0180*/                   STS.128 [R2], R4 ;
		Function : two
        /*0100*/                   STG.E.U8 desc[UR8][R2.64], R4 ;
"""
KERNEL = Kernel("batch_norm_act_cluster", "bfloat16", "vector 8, NCHW")
ROW = Row(*KERNEL, 90, 96, 0, 0, 536, "a layer", 64, 8192, 0.3125, 16, 16, 0.14, 0.09)
MOVED = Moved("clusters", "NHWC", [64, 64, 8, 8], 2.01, 3.01, [2, 3])


def test_names() -> None:
    assert nvcc.demangled(CLUSTER) == KERNEL
    assert nvcc.demangled(CLUSTER.replace("Lb1", "Lb0")) == KERNEL._replace(form="vector 8, NHWC")
    assert nvcc.demangled(BACKWARD) == ("bce_with_logits_backward", "float32", "a gradient per element")
    assert nvcc.demangled("_ZN7fastgan11some_kernelI6__halfLb1EEEvPT_") == ("some", "float16", "true")
    assert nvcc.demangled("_ZN7fastgan11some_kernelIdEEvPT_") == ("some", "float64", "")
    with pytest.raises(ValueError, match="not a kernel"):
        nvcc.demangled("_ZN7fastgan11some_kernelEv")


def test_a_report() -> None:
    assert nvcc.usages(REPORT) == {
        (CLUSTER, 90): Usage(registers=96, stack=0, spills=0, shared=536),
        (BACKWARD, 80): Usage(registers=39, stack=24, spills=24, shared=0),
    }


@pytest.mark.parametrize("line", ["Used 96", "Function properties"])
def test_a_report_of_two_architectures_in_one_another_is_refused(line: str) -> None:
    lines = REPORT.splitlines()
    (moved,) = (text for text in lines[:6] if line in text)
    lines.remove(moved)
    with pytest.raises(ValueError, match="does not report"):
        nvcc.usages("\n".join([*lines, moved]))


def test_machine_code() -> None:
    listing = nvcc.functions(LISTING)
    assert list(listing) == ["one", "two"]
    assert sass.accesses(listing["one"], "LDG", "LDGSTS") == [16, 2, 8, 8]
    assert sass.accesses(listing["one"], "STG", "ST") == [16, 4]
    assert sass.accesses(listing["two"], "STG", "ST") == [1]
    assert sass.wide_share([16, 4, 32, 8]) == 0.5 and sass.wide_share([]) == 1


def test_a_row_is_of_the_launch_with_the_lowest_occupancy() -> None:
    """By hand: 96 registers are 3,072 a warp, so 21 warps; blocks of 2 warps: 10, of 16 warps: 1. Of shared memory a
    block takes 536 + 8,192 + 1,024 bytes (23 fit) or 536 + 100,000 + 1,024 (2 fit)."""
    launches = [Launch("small", 64, 8192), Launch("big", 512, 0), Launch("full", 64, 100_000)]
    code = nvcc.functions(LISTING)["one"]

    def row(*these: Launch) -> Row:
        return nvcc.row(KERNEL, 90, Usage(96, 0, 0, 536), code, these)

    assert row(launches[0]) == replace(ROW, layer="small", occupancy=0.312, wide_loads=0.25, wide_stores=0.5)
    assert (row(launches[1]).occupancy, row(launches[2]).occupancy) == (0.25, 0.062)
    assert row(*launches) == row(launches[2])


def test_the_flags_and_architectures_are_those_of_setup() -> None:
    assert nvcc.architectures() == (80, 90, 100)
    assert "-std=c++20" in nvcc.setting("NVCC_FLAGS")
    with pytest.raises(KeyError):
        nvcc.setting("NOTHING")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spills": 8}, "spills 0 -> 8"),
        ({"stack": 16}, "stack 0 -> 16"),
        ({"occupancy": 0.25}, "occupancy 0.3125 -> 0.25"),
        ({"load": 8}, "load 16 -> 8"),
        ({"store": 4}, "store 16 -> 4"),
        ({"wide_loads": 0.1}, "wide_loads 0.14 -> 0.1"),
        ({"wide_stores": 0.05}, "wide_stores 0.09 -> 0.05"),
        ({"dtype": "float16"}, "batch_norm_act_cluster, float16, vector 8, NCHW, sm_90: not in nvcc.json"),
        ({"arch": 100}, "sm_100: not in nvcc.json"),
    ],
)
def test_what_is_worse_is_said(change: dict[str, object], words: str) -> None:
    (line,) = nvcc_table.worse([replace(ROW, **change)], [ROW])  # type: ignore[arg-type]
    assert words in line


def test_what_is_not_worse_is_not() -> None:
    better = replace(ROW, registers=128, occupancy=0.5, threads=128, shared=2048, wide_loads=0.5)
    assert list(nvcc_table.worse([ROW, better], [ROW])) == []
    assert list(nvcc_table.worse([replace(ROW, spills=8)], [ROW], compilers_differ=True)) == []


def test_more_bytes_are_said() -> None:
    assert list(nvcc_table.moves_more([MOVED, replace(MOVED, forward=2.0)], [MOVED])) == []
    (line,) = nvcc_table.moves_more([replace(MOVED, backward=3.1)], [MOVED])
    assert line == "clusters, NHWC: passes backward 3.01 -> 3.1"
    assert len(list(nvcc_table.moves_more([replace(MOVED, layout="NCHW")], [MOVED]))) == 2


def test_the_committed_table_keeps_the_bars() -> None:
    _, rows, found = nvcc_table.committed()
    assert len({row.key for row in rows}) == len(rows)
    assert [row for row in rows if row.spills or row.stack or not 0 < row.occupancy <= 1] == []
    widest = {name: 16 // size for name, size in nvcc.SIZES.items()}
    norms = [row for row in rows if row.kernel.startswith("batch_norm_act")]
    wide = [row for row in norms if row.form.startswith(f"vector {widest[row.dtype]},")]
    assert len(wide) == 6 * 4 * 2 * 3  # kernels, dtypes, layouts, architectures
    assert [row for row in wide if row.load < 16 or (row.store < 16 and "moments" not in row.kernel)] == []
    losses = [row for row in rows if row.kernel.startswith("bce_with_logits")]
    assert losses and [row for row in losses if row.load < 16] == []
    assert {(each.form, each.layout) for each in found} == {(form, key) for form in PASSES for key in ("NHWC", "NCHW")}
    for each in found:
        assert each.least == list(PASSES[each.form])
        assert each.forward <= MOST * each.least[0] and each.backward <= MOST * each.least[1]


def test_every_kernel_is_in_the_table() -> None:
    declared = {
        name
        for path in CSRC.glob("*/*.cuh")
        for name in re.findall(r"__global__ void[^;{]*?\b(\w+)_kernel\(", path.read_text())
    }
    rows = nvcc_table.committed()[1]
    for arch in nvcc.architectures():
        for dtype in nvcc.SIZES:
            assert {row.kernel for row in rows if (row.arch, row.dtype) == (arch, dtype)} == declared
    assert len(declared) > 5


def test_the_readme_has_the_committed_table() -> None:
    _, rows, found = nvcc_table.committed()
    assert nvcc_table.summary(rows, found) in nvcc_table.README.read_text()


def test_without_nvcc_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(nvcc, "_nvcc", lambda: None)
    assert nvcc_table.main(True, (), "", False) == nvcc_table.ABSENT
    assert "passed over: no nvcc" in capsys.readouterr().err
    recipe = (CSRC.parent / "Makefile").read_text()
    assert f"bench audit --nvcc --check || [ $$? -eq {nvcc_table.ABSENT} ]" in recipe


def test_check_compares_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command with the committed rows in place of nvcc's, then with one of them worse."""
    version, rows, found = nvcc_table.committed()
    before = nvcc_table.TABLE.read_bytes()
    monkeypatch.setattr(nvcc, "reason", lambda: None)
    monkeypatch.setattr(nvcc, "version", lambda: version)
    monkeypatch.setattr(nvcc_table, "moved", lambda: found)
    for changed, code, words in ((rows[0], 0, "no row is worse"), (replace(rows[0], spills=4), 1, "spills 0 -> 4")):
        monkeypatch.setattr(nvcc, "audit", lambda archs, only, first=changed: [first, *rows[1:]])
        assert nvcc_table.main(True, (), "", False) == code
        assert words in capsys.readouterr().err
    assert nvcc_table.TABLE.read_bytes() == before


def test_the_whole_table_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Byte for byte what is committed, in bench/README.md too; a part of it is not."""
    version, rows, found = nvcc_table.committed()
    table, readme = nvcc_table.TABLE.read_text(), nvcc_table.README.read_text()
    monkeypatch.setattr(nvcc_table, "TABLE", tmp_path / "nvcc.json")
    monkeypatch.setattr(nvcc_table, "README", tmp_path / "README.md")
    nvcc_table.README.write_text(
        re.sub(r"(?<=<!-- bench:begin -->).*?(?=<!-- bench:end -->)", "", readme, flags=re.DOTALL)
    )
    monkeypatch.setattr(nvcc, "reason", lambda: None)
    monkeypatch.setattr(nvcc, "version", lambda: version)
    monkeypatch.setattr(nvcc, "audit", lambda archs, only: rows)
    monkeypatch.setattr(nvcc_table, "moved", lambda: found)
    assert nvcc_table.main(False, (90,), "", False) == nvcc_table.main(False, (), "cluster", False) == 0
    assert nvcc_table.main(False, (), "", True) == 0 and not nvcc_table.TABLE.exists()
    assert nvcc_table.main(False, (), "", False) == 0
    assert nvcc_table.TABLE.read_text() == table and nvcc_table.README.read_text() == readme
