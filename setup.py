"""Builds the optional compiled modules of fastgan; everything else is in pyproject.toml.

FASTGAN_BUILD says what to build:

* ``auto`` (default): what this machine can build. Every decision is printed with its reason; nothing is an error.
* ``off``: nothing, a pure Python package.
* ``cpu``: ``fastgan._native_cpu``, or an error.
* ``cuda``: ``fastgan._native_cpu`` and ``fastgan._native_cuda``, or an error. No GPU is needed.

TORCH_CUDA_ARCH_LIST has torch's usual meaning. The modules use the stable ABI of torch (>= 2.11) and of Python
(>= 3.10), so a wheel serves every later version of both.
"""

from __future__ import annotations

import glob
import os
import pprint
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

MODES = ("auto", "off", "cpu", "cuda")
TORCH_TARGET_VERSION = "0x020b000000000000"  # 2.11: major in the first byte, minor in the second
DEFAULT_CUDA_ARCHS = "8.0;9.0;10.0+PTX"
COMPILING_COMMANDS = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}

# Neither flag changes a value: they let the compiler turn comparisons into selections, without which loops stay scalar.
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-std=c++20",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
]
NVCC_FLAGS = ["-O3", "-std=c++20", "--threads=0", "-Xcompiler", "-fvisibility=hidden,-Wall,-Wextra"]


def say(message: str) -> None:
    """Prints one line about the build; pip shows it with -v."""
    print(f"fastgan: {message}", flush=True)


def build_mode() -> str:
    """FASTGAN_BUILD, checked."""
    mode = os.environ.get("FASTGAN_BUILD", "auto")
    if mode not in MODES:
        raise SystemExit(f"fastgan: FASTGAN_BUILD={mode!r} is not one of {', '.join(MODES)}")
    return mode


def why_no_torch() -> str | None:
    """None if the torch to compile against can be imported, otherwise the reason."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported while building ({error}); use pip install --no-build-isolation"
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    return None if version >= (2, 11) else f"torch {torch.__version__} is older than 2.11"


def why_no_cxx() -> str | None:
    """None if a C++20 compiler makes a Python extension here, otherwise the reason."""
    compiler = os.environ.get("CXX", "c++")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trivial.cpp")
        source.write_text("#include <Python.h>\n#include <vector>\nint size() { return std::vector<int>{1}.size(); }\n")
        include = "-I" + sysconfig.get_paths()["include"]
        command = [*shlex.split(compiler), "-std=c++20", "-shared", "-fPIC", include, str(source), "-o", f"{source}.so"]
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            return f"the C++ compiler {compiler!r} does not start ({error.strerror})"
    if result.returncode == 0:
        return None
    return f"the C++ compiler {compiler!r} does not compile a trivial extension ({first_line(result.stderr)})"


def first_line(text: str) -> str:
    """The first line that mentions an error, or the first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error" in line.lower()), lines[0])


def cuda_home_candidates() -> list[str]:
    """Folders that may hold a CUDA toolkit, the most explicit first."""
    candidates = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", "")]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        candidates.append(str(Path(nvcc).parent.parent))
        candidates.append(str(Path(nvcc).resolve().parent.parent))
        # nvcc on PATH may be a script that starts the real one, whose headers are not beside the script.
        with open(nvcc, "rb") as file:
            start = file.read(4096)
        if start.startswith(b"#!"):
            candidates += [
                str(Path(path).parent.parent) for path in re.findall(r"\S+/nvcc\b", start.decode(errors="replace"))
            ]
    candidates += ["/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-*"), reverse=True)]
    return [candidate for candidate in candidates if candidate]


def find_cuda() -> tuple[str | None, str | None]:
    """The CUDA toolkit's folder and None, or None and the reason why there is none to use."""
    import torch

    if torch.version.cuda is None:
        return None, "this torch is built without CUDA"
    home = next(
        (
            h
            for h in cuda_home_candidates()
            if Path(h, "bin/nvcc").exists() and Path(h, "include/cuda_runtime.h").exists()
        ),
        None,
    )
    if home is None:
        return None, "no CUDA toolkit with nvcc and cuda_runtime.h found (CUDA_HOME, PATH, /usr/local/cuda*)"
    result = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+)\.(\d+)", result.stdout)
    if release is None:
        return None, f"{home}/bin/nvcc does not tell its version"
    if release.group(1) != torch.version.cuda.split(".")[0]:
        return None, f"nvcc {release.group(1)}.{release.group(2)} does not match torch's CUDA {torch.version.cuda}"
    return home, None


class Plan:
    """What is built, and why the rest is not."""

    def __init__(self) -> None:
        self.mode = build_mode()
        self.not_built: dict[str, str] = {}  # device: reason
        self.cuda_home: str | None = None
        compiling = COMPILING_COMMANDS.intersection(sys.argv[1:])
        if not compiling or self.mode == "off":
            self.not_built = dict.fromkeys(("cpu", "cuda"), "FASTGAN_BUILD=off when fastgan was installed")
        else:
            self._decide()
        if compiling:
            for device in ("cpu", "cuda"):
                reason = self.not_built.get(device)
                say(f"native {device}: " + ("to be built" if reason is None else f"not built: {reason}"))
            for device in {"auto": (), "off": (), "cpu": ("cpu",), "cuda": ("cpu", "cuda")}[self.mode]:
                if device in self.not_built:
                    raise SystemExit(f"fastgan: FASTGAN_BUILD={self.mode}, but {self.not_built[device]}")

    def _decide(self) -> None:
        reason = why_no_torch() or why_no_cxx()
        if reason is not None:
            self.not_built = dict.fromkeys(("cpu", "cuda"), reason)
        elif self.mode == "cpu":
            self.not_built["cuda"] = "FASTGAN_BUILD=cpu when fastgan was installed"
        else:
            self.cuda_home, cuda_reason = find_cuda()
            if cuda_reason is not None:
                self.not_built["cuda"] = cuda_reason

    def devices(self) -> list[str]:
        """The devices whose module is to be built."""
        return [device for device in ("cpu", "cuda") if device not in self.not_built]

    def write_build_info(self, folder: Path) -> None:
        """Records the outcome for fastgan/native.py."""
        info: dict[str, object] = {"FASTGAN_BUILD": self.mode, "not_built": self.not_built}
        if self.devices():
            import torch

            info["torch"] = torch.__version__
        if "cuda" in self.devices():
            info["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST")
        value = pprint.pformat(info, width=110, sort_dicts=False)
        text = f'"""Written by setup.py: what was built."""\n\nBUILD = {value}\n'
        Path(folder, "_build_info.py").write_text(text)


PLAN = Plan()


class BuildPython(build_py):
    """Adds the record of the build to the package."""

    def run(self) -> None:
        super().run()
        in_place = getattr(self, "editable_mode", False)
        PLAN.write_build_info(Path("fastgan") if in_place else Path(self.build_lib, "fastgan"))


def make_build_ext() -> type[build_ext]:
    """torch's build_ext, made to build each module in a folder of its own and to forgive in auto mode."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildNative(BuildExtension):
        def run(self) -> None:
            super().run()
            PLAN.write_build_info(Path("fastgan") if self.inplace else Path(self.build_lib, "fastgan"))

        def build_extension(self, ext) -> None:
            device = ext.name.rpartition("_")[2]
            shared_folder = self.build_temp
            # bind.cpp is compiled into both modules with different macros: the object files must not meet.
            self.build_temp = os.path.join(shared_folder, device)
            try:
                super().build_extension(ext)
            except Exception as error:
                if not ext.optional:
                    raise
                PLAN.not_built[device] = f"its build failed ({first_line(str(error))})"
                say(f"native {device}: not built: {PLAN.not_built[device]}")
                raise CompileError(str(error)) from error  # for an optional module setuptools warns and goes on
            finally:
                self.build_temp = shared_folder
            say(f"native {device}: built")

    return BuildNative


def make_extension(device: str):
    """The setuptools extension of one device's module."""
    from torch.utils.cpp_extension import CppExtension, CUDAExtension, include_paths

    # As system headers: their warnings are not ours.
    system = [flag for path in include_paths() for flag in ("-isystem", path)]
    suffix, constructor = {"cpu": ("cpu*.cpp", CppExtension), "cuda": ("kernel.cu", CUDAExtension)}[device]
    macros = [("FASTGAN_DISPATCH_KEY", device.upper()), ("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)]
    if device == "cuda":
        macros.append(("USE_CUDA", None))
    extension = constructor(
        f"fastgan._native_{device}",
        ["csrc/module.cpp", *sorted(glob.glob("csrc/*/bind.cpp")), *sorted(glob.glob(f"csrc/*/{suffix}"))],
        include_dirs=[os.path.abspath("csrc")],  # ninja runs in the build folder
        define_macros=macros,
        depends=sorted(path for end in ("h", "inc", "cuh") for path in glob.glob(f"csrc/**/*.{end}", recursive=True)),
        extra_compile_args={"cxx": CXX_FLAGS + system, "nvcc": NVCC_FLAGS + system},
        py_limited_api=True,
    )
    extension.optional = PLAN.mode == "auto"
    return extension


def arguments() -> dict:
    """The arguments of setup() that depend on what is built."""
    if not PLAN.devices():
        return {"cmdclass": {"build_py": BuildPython}}
    if PLAN.cuda_home is not None:
        import torch

        os.environ["CUDA_HOME"] = PLAN.cuda_home  # read when torch.utils.cpp_extension is imported
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS)
    return {
        "ext_modules": [make_extension(device) for device in PLAN.devices()],
        "cmdclass": {"build_py": BuildPython, "build_ext": make_build_ext()},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**arguments())
