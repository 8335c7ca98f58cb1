"""What a user installs: sdist, wheel from the sdist, the wheel in an empty environment, with and without a compiler."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from fastgan.version import __version__
from tests.checks import assert_rule
from tests.wheels import build_sdist, build_wheel, clean_environment, run

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.slow,
    # The fixtures are shared; under xdist's default distribution every worker would build them again.
    pytest.mark.xdist_group("packaging"),
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="fastgan's own sources are not here"),
]

# A forward and a backward through the public function, and the compiled operator if there is one.
USE = """
import json, torch, fastgan
from fastgan import functional, native
input = torch.linspace(-3, 3, 7, requires_grad=True)
loss = functional.binary_cross_entropy_with_logits(input, 1.0)
loss.backward()
answer = {
    "file": fastgan.__file__, "version": fastgan.__version__, "native": native.native_reason("cpu"),
    "info": fastgan.build_info(), "loss": loss.item(), "grad": input.grad.tolist(),
}
if answer["native"] is None:
    answer["native_loss"] = torch.ops.fastgan_native.bce_with_logits(input.detach(), None, 1.0, 1, True)[0].item()
print(json.dumps(answer))
"""


def assert_right(answer):
    """The numbers that USE printed against float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        input = torch.linspace(-3, 3, 7).to(dtype).requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(input, torch.ones_like(input))
        loss.backward()
        results.append((loss.detach(), input.grad))
    (torch_loss, torch_grad), (loss, grad) = results
    assert_rule("loss", torch.tensor(answer["loss"]), torch_loss, loss)
    assert_rule("grad", torch.tensor(answer["grad"]), torch_grad, grad)
    if answer["native"] is None:
        assert_rule("native loss", torch.tensor(answer["native_loss"]), torch_loss, loss)


def use(package, folder, *options, **changes):
    """Installs a wheel or an sdist in an empty environment that sees this one's torch, and uses it from another
    folder."""
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"])
    python = folder / "venv/bin/python"
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip())
    # A plain path entry, read after the environment's own packages: torch is found, and .pth files there are not run.
    (site / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--ignore-installed"]
    run([*command, *options, package], env=clean_environment(**changes), cwd=folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    output = run([python, "-W", "error", "-c", USE], env=clean_environment(), cwd=elsewhere)
    answer = json.loads(output.splitlines()[-1])
    assert Path(answer["file"]).is_relative_to(folder / "venv"), "imported from somewhere else"
    assert (Path(answer["file"]).parent / "py.typed").is_file()
    assert answer["version"] == __version__
    assert_right(answer)
    return answer


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build_sdist(tmp_path_factory.mktemp("sdist"))


#: Each object file is made once: for the same flags and the same csrc/, whatever folder it was unpacked in.
COMPILE_ONCE = """#!{python} -IS
import hashlib, shutil, subprocess, sys
from pathlib import Path

arguments = sys.argv[1:]
source = next((Path(word).absolute() for word in arguments if word.endswith(".cpp")), Path())
code = -1
if "csrc" in source.parts and "-c" in arguments:
    root = Path(*source.parts[: source.parts.index("csrc")])
    # an environment's own folder of headers has none
    empty = [word for word in arguments if word[:2] == "-I" and not any(map(Path.is_file, Path(word[2:]).rglob("*")))]
    flags = [word for word in arguments if word not in empty]
    digest = hashlib.sha256("\\0".join(flags).replace(str(root), "").encode())
    for path in sorted(path for path in (root / "csrc").rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    made = [Path(arguments[arguments.index(option) + 1]) for option in ("-o", "-MF")]
    kept = [Path({folder!r}, digest.hexdigest() + path.suffix) for path in made]
    if not kept[-1].exists() and (code := subprocess.call([{compiler!r}, *arguments])) == 0:
        for path, copy in zip(made, kept):
            shutil.copy(path, copy)
    elif code < 0:
        for path, copy in zip(made, kept):
            shutil.copy(copy, path)
        code = 0
sys.exit(code if code >= 0 else subprocess.call([{compiler!r}, *arguments]))
"""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """The C++ compiler, for builds of the same sdist by different commands."""
    real = shutil.which("c++")
    if real is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("compiler")
    script = folder / "c++"
    script.write_text(COMPILE_ONCE.format(python=sys.executable, folder=str(folder), compiler=real))
    script.chmod(0o755)
    return str(script)


def test_sdist_holds_sources_and_tests(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "csrc/module.cpp",
        "csrc/bce_with_logits/kernel.cuh",
        "tests/test_packaging.py",
        "LICENSE",
        "pyproject.toml",
    ):
        assert needed in names
    assert not [name for name in names if name.endswith((".so", "_build_info.py", ".pyc"))]


#: C++ names of torch's own namespaces: not part of the stable ABI, which is C.
UNSTABLE = re.compile(r"_ZN?K?(2at|3c10|5torch|8caffe2)")


def foreign_symbols(wheel, folder):
    """What the compiled module expects of the libraries that it is loaded beside."""
    library = zipfile.ZipFile(wheel).extract("fastgan/_native_cpu.abi3.so", folder)
    return [line.split()[-1] for line in run(["nm", "-D", "--undefined-only", library]).splitlines()]


def test_wheel_with_compiled_module(sdist, compiler, tmp_path):
    wheel, output = build_wheel(sys.executable, sdist, tmp_path, FASTGAN_BUILD="cpu", CXX=compiler)
    assert wheel.name.startswith(f"fastgan-{__version__}-cp310-abi3-")
    assert "fastgan: native cpu: built" in output
    assert "fastgan: native cuda: not built: FASTGAN_BUILD=cpu" in output
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastgan/_native_cpu.abi3.so" in names
    assert not [name for name in names if name.partition("/")[0] not in ("fastgan", f"fastgan-{__version__}.dist-info")]
    needed = foreign_symbols(wheel, tmp_path)
    assert any(symbol.startswith("aoti_torch_") for symbol in needed)
    assert not [symbol for symbol in needed if UNSTABLE.match(symbol)]
    answer = use(wheel, tmp_path)
    assert answer["native"] is None
    assert answer["info"]["native_cpu"] == "loaded"
    assert answer["info"]["build"]["FASTGAN_BUILD"] == "cpu"


def test_pure_python_wheel(sdist, tmp_path):
    wheel, output = build_wheel(sys.executable, sdist, tmp_path, FASTGAN_BUILD="off")
    assert wheel.name == f"fastgan-{__version__}-py3-none-any.whl"
    assert "fastgan: native cpu: not built: FASTGAN_BUILD=off when fastgan was installed" in output
    answer = use(wheel, tmp_path)
    assert answer["info"]["native_cpu"] == answer["native"]
    assert answer["native"] == "the native cpu module was not built: FASTGAN_BUILD=off when fastgan was installed"


def test_install_from_the_sdist(sdist, compiler, tmp_path):
    """With the compiled module, beside the torch that is there; the compiler may have seen the same before."""
    answer = use(sdist, tmp_path, "--no-build-isolation", "--no-cache-dir", FASTGAN_BUILD="cpu", CXX=compiler)
    assert answer["native"] is None


def test_install_from_the_sdist_in_isolation(sdist, tmp_path):
    """pip's default: a build environment of its own, without torch, so a pure Python package."""
    requirement = re.search(r'requires = \["(setuptools[^"]*)"\]', (ROOT / "pyproject.toml").read_text())[1]
    index = tmp_path / "index"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(index), requirement]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip(f"no package index here serves {requirement}")
    answer = use(sdist, tmp_path, "--no-cache-dir", PIP_FIND_LINKS=str(index))
    assert answer["native"].startswith("the native cpu module was not built: torch cannot be imported while building")


def test_wheel_without_compiler(sdist, tmp_path):
    nothing = tmp_path / "no-compiler-here"
    nothing.mkdir()
    changes = {"PATH": str(nothing), "CXX": str(nothing / "c++"), "CC": str(nothing / "cc")}
    wheel, output = build_wheel(sys.executable, sdist, tmp_path, FASTGAN_BUILD="auto", **changes)
    assert wheel.name == f"fastgan-{__version__}-py3-none-any.whl"
    reason = next(line for line in output.splitlines() if "fastgan: native cpu: not built: " in line)
    assert "does not start" in reason
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith(".so") or "test" in name or name.startswith("csrc")]
    answer = use(wheel, tmp_path)
    assert answer["native"].startswith("the native cpu module was not built: the C++ compiler")


@pytest.fixture
def unpacked(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / f"fastgan-{__version__}"


def setup_py(unpacked, **changes):
    """Runs ``python setup.py build``. Returns its exit code and what it printed."""
    environment = clean_environment(**changes)
    result = subprocess.run(
        [sys.executable, "setup.py", "build"], cwd=unpacked, env=environment, capture_output=True, text=True
    )
    return result.returncode, result.stdout + result.stderr


def test_unknown_mode_is_an_error(unpacked):
    code, output = setup_py(unpacked, FASTGAN_BUILD="gpu")
    assert code != 0
    assert "fastgan: FASTGAN_BUILD='gpu' is not one of auto, off, cpu, cuda" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_asked_for_but_impossible_is_an_error(unpacked, mode):
    code, output = setup_py(unpacked, FASTGAN_BUILD=mode, CXX="/does/not/exist/c++")
    assert code != 0
    assert f"fastgan: FASTGAN_BUILD={mode}, but the C++ compiler" in output


def hide_torch(folder):
    """A folder that, put first on the path, makes ``import torch`` fail as it does in an isolated build."""
    (folder / "hidden").mkdir()
    (folder / "hidden/torch.py").write_text("raise ImportError('no torch here')\n")
    return {"PYTHONPATH": str(folder / "hidden")}


def test_without_torch_in_the_build_environment(unpacked, tmp_path):
    hidden = hide_torch(tmp_path)
    code, output = setup_py(unpacked, FASTGAN_BUILD="auto", **hidden)
    assert code == 0, output
    assert "fastgan: native cpu: not built: torch cannot be imported while building" in output
    assert (unpacked / "build/lib/fastgan/_build_info.py").is_file()
    code, output = setup_py(unpacked, FASTGAN_BUILD="cpu", **hidden)
    assert code != 0
    assert "FASTGAN_BUILD=cpu, but torch cannot be imported while building" in output


def test_auto_survives_a_failing_build(unpacked):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    for source in [*unpacked.glob("csrc/**/*.cpp"), *unpacked.glob("csrc/**/*.cu")]:
        source.write_text("#error planted\n")
    code, output = setup_py(unpacked, FASTGAN_BUILD="auto")
    assert code == 0, output
    assert "fastgan: native cpu: not built: its build failed" in output
    assert "'cpu': 'its build failed" in next((unpacked / "build").glob("lib*/fastgan/_build_info.py")).read_text()
    assert setup_py(unpacked, FASTGAN_BUILD="cpu")[0] != 0
