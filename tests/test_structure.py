"""The design's rules, kept by tests: who imports whom, sizes, docstrings, what an import loads, examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan

ROOT = Path(fastgan.__file__).parent.parent
PACKAGE = ROOT / "fastgan"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULE_LINES, FUNCTION_LINES = 400, 60


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_source = pytest.mark.parametrize("path", SOURCES, ids=name)


def imports(path: Path) -> set[str]:
    """Absolute names of all that a module imports, at any depth of nesting; ``from a import b`` is ``a.b`` too."""
    found = set()
    package = [*path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.update({source, *(f"{source}.{alias.name}" for alias in node.names)})
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("__import__", "importlib.import_module") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return found


def below(names: set[str], *parents: str) -> set[str]:
    """The names that are one of the parents or inside one."""
    return {name for name in names for parent in parents if name == parent or name.startswith(parent + ".")}


SLICES = [
    f"fastgan.ops.{path.name}"
    for path in sorted((PACKAGE / "ops").iterdir())
    if path.is_dir() and path.name != "common"
]
SLICES = [slice for slice in SLICES if not slice.endswith("__pycache__")]


def forbidden(path: Path) -> set[str]:
    """What the module imports against the design's table."""
    parts, found = path.relative_to(PACKAGE).parts, imports(path)
    wrong: set[str] = set()
    if parts[0] == "models":
        wrong |= below(found, "fastgan.functional", "fastgan.ops", "triton")
    if parts[0] == "nn":
        wrong |= below(found, "triton", *SLICES)
        wrong |= below(found, "fastgan.ops") - below(found, "fastgan.ops.common.activation") - {"fastgan.ops.common"}
    if parts[0] == "functional":
        wrong |= below(found, "triton", "fastgan.native", "fastgan._native_cpu", "fastgan._native_cuda", "fastgan.nn")
        wrong |= {name for name in found if "triton" in name}
    if parts[0] == "ops":
        wrong |= below(found, "fastgan.nn", "fastgan.models", "fastgan.functional", "fastgan.training")
        others = [slice for slice in SLICES if parts[1] not in slice]
        wrong |= below(found, *others) if len(parts) > 2 else set()
    if parts[0] in ("ops", "nn", "models", "functional") or parts in (("dispatch.py",), ("native.py",)):
        wrong |= below(
            found, "fastgan.data", "fastgan.evaluation", "fastgan.cli", "fastgan.commands", "fastgan.training"
        )
    if parts[-1] == "triton_kernels.py":
        wrong |= below(found, "torch", "fastgan.dispatch", "fastgan.functional")
    if parts[-1] in ("reference.py", "autograd.py", "checks.py", "geometry.py") and parts[0] == "ops":
        wrong |= below(found, "triton", "fastgan.native")
    return wrong


@every_source
def test_the_table_of_who_never_imports_whom(path):
    assert not forbidden(path)


def test_the_import_finder_finds(tmp_path, monkeypatch):
    """The rule above can fail: every way to write an import is seen."""
    folder = tmp_path / "fastgan" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "fastgan")
    for line in (
        "import fastgan.functional",
        "from fastgan import functional",
        "from fastgan.functional import conv2d",
        "from .. import functional",
        "from ..ops import conv_transpose2d",
        "def f():\n    from fastgan.ops.common import dtypes",
        "import importlib\nimportlib.import_module('fastgan.ops')",
    ):
        module = folder / "bad.py"
        module.write_text(line)
        assert forbidden(module), line


def test_only_launch_and_kernel_files_import_triton_at_all():
    """Anything else would make ``import fastgan`` pull it in."""
    allowed = {
        f"triton_{part}.py"
        for part in ("arguments", "columns", "epilogue", "kernels", "launch", "operands", "statistics", "taps")
    }
    assert {name(path) for path in SOURCES if below(imports(path), "triton") and path.name not in allowed} == set()


CSRC = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".cu", ".cuh", ".h", ".inc"))
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


@pytest.mark.parametrize("path", CSRC, ids=name)
def test_compiled_sources_speak_the_stable_abi(path):
    included = INCLUDE.findall(path.read_text())
    assert not [header for header in included if header.startswith(("ATen", "c10", "torch/extension", "torch/torch.h"))]
    if path.suffix == ".cuh" or path.name in ("formula.h", "activation.h"):
        assert not [header for header in included if header.startswith("torch")]


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *CSRC], ids=name)
def test_a_file_fits_on_a_few_screens(path):
    assert len(path.read_text().splitlines()) <= MODULE_LINES


@every_source
def test_a_function_fits_on_one_screen(path):
    """Docstrings and signatures of kernels, which name every stride, do not count."""
    long = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > FUNCTION_LINES:
                long.append((node.name, lines))
    assert not long


@pytest.mark.parametrize(
    "module", ["fastgan", "fastgan.functional", "fastgan.nn", "fastgan.models", "fastgan.dispatch", "fastgan.tuning"]
)
def test_everything_public_has_a_docstring(module):
    module = importlib.import_module(module)
    assert module.__doc__
    bare = []
    for public in module.__all__:
        thing = getattr(module, public)
        if not callable(thing):
            continue
        if not (thing.__doc__ or "").strip() or thing.__doc__ in [
            base.__doc__ for base in getattr(thing, "__bases__", ())
        ]:
            bare.append(public)
        if isinstance(thing, type):
            # forward is what the class's own docstring is about
            methods = [
                (m, f) for m, f in vars(thing).items() if callable(f) and m != "forward" and not m.startswith("_")
            ]
            bare += [f"{public}.{method}" for method, function in methods if not function.__doc__]
    assert not bare


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "_build_info.py"], ids=name)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_functional_documents_arguments_results_errors_and_gradients():
    for public in fastgan.functional.__all__:
        text = getattr(fastgan.functional, public).__doc__
        for section in ("Args:", "Returns:", "Raises:", "Gradient order:", "Example:"):
            assert section in text, (public, section)


def test_importing_the_package_loads_no_optional_dependency():
    """Whatever ``import torch`` itself loads does not count, nor torch's flop counter, in which our formulas are."""
    code = (
        "import sys, torch, torch.utils.flop_counter\n"
        "before = set(sys.modules)\n"
        "import fastgan\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    optional = {"triton", "sklearn", "scipy", "PIL", "torchvision", "matplotlib", "hypothesis", "pytest", "expecttest"}
    optional |= {"typer", "rich", "tensorboard", "safetensors", "torch_fidelity"}
    assert not optional & set(done.stdout.split())


WORDS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")))  # taken apart, so that this file passes
TEXTS = sorted(
    path
    for folder, patterns in {
        "fastgan": ("*.py", "*.md"),
        "csrc": ("*",),
        "tests": ("*.py",),
        ".": ("*.md", "*.toml", "setup.py"),
    }.items()
    for pattern in patterns
    for path in ((ROOT / folder).glob(pattern) if folder == "." else (ROOT / folder).rglob(pattern))
    if path.is_file() and path.suffix != ".pyc"
)


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_nothing_is_left_to_be_done(path):
    found = WORDS.findall(path.read_text(encoding="utf-8", errors="replace"))
    assert not found


def run_doctests(text_or_module, **kwargs):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if isinstance(text_or_module, Path):
        return doctest.testfile(str(text_or_module), module_relative=False, optionflags=flags, **kwargs)
    return doctest.testmod(text_or_module, optionflags=flags, **kwargs)


@pytest.mark.parametrize(
    "module",
    [
        "fastgan.functional.convolutions",
        "fastgan.functional.norms",
        "fastgan.functional.loss",
        "fastgan.functional.chains",
        "fastgan.dispatch",
        "fastgan.tuning",
        "fastgan.nn.conv",
        "fastgan.nn.norm",
        "fastgan.nn.loss",
        "fastgan.nn.fold",
        "fastgan.nn.sync_norm",
        "fastgan.nn.sequential",
    ],
)
def test_the_examples_of_the_docstrings_run(module):
    result = run_doctests(importlib.import_module(module))
    assert result.attempted and not result.failed


def test_the_examples_of_the_surgery_run():
    surgery = pytest.importorskip("fastgan.nn.surgery", reason="this build has no surgery")
    assert not run_doctests(surgery).failed


README = ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_there_is_a_readme():
    assert README.exists()


@pytest.mark.skipif(not README.exists(), reason="README.md does not exist")
def test_the_python_blocks_of_the_readme_run(tmp_path, monkeypatch):
    """In the order they stand in, in one namespace; blocks of a session (>>>) as doctests."""
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(README.read_text())
    assert blocks
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, namespace, "README", str(README), 0)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            runner.run(test, clear_globs=False)
            assert not runner.failures
            namespace = test.globs
        else:
            exec(compile(block, str(README), "exec"), namespace)
