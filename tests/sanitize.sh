#!/usr/bin/env bash
# Builds the native CPU module with AddressSanitizer and UndefinedBehaviorSanitizer in a copy of the tree, build/sanitize, and
# runs tests/test_native.py and every tests/ops/test_native_*.py on it: `make sanitize`. Whatever a sanitizer finds ends the
# run. PYTHON is the interpreter, with torch and the test tools.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:?}
cxx=${CXX:-c++}
copy=build/sanitize

# Objects of the last run are kept: only what changed is compiled again.
mkdir -p "$copy"
for part in csrc fastgan tests; do
    rm -rf "${copy:?}/$part"
    cp -rp "$part" "$copy/$part"
done
cp -p setup.py pyproject.toml README.md "$copy"
cd "$copy"
rm -f fastgan/*.so
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
CFLAGS="$flags" CXXFLAGS="$flags" LDFLAGS="$flags" FASTGAN_BUILD=cpu "$python" setup.py -q build_ext --inplace >build.log 2>&1 ||
    { cat build.log && exit 1; }

# libstdc++ as well: the interceptor of exceptions looks for it before torch is loaded.
libraries=
for name in libasan libubsan libstdc++; do
    libraries+=" $("$cxx" -print-file-name=$name.so)"
done
export LD_PRELOAD="$libraries" PYTHONPATH="$PWD"
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1  # Python itself frees little at its end
"$python" - <<'CHECK'
from pathlib import Path
from fastgan import _native_cpu
assert Path(_native_cpu.__file__).parent.parent == Path.cwd(), _native_cpu.__file__
assert b"__asan_report" in Path(_native_cpu.__file__).read_bytes(), "built without the sanitizers"
CHECK
# Reports go to the file descriptor, which pytest would otherwise keep to itself.
exec "$python" -m pytest -q -p no:cacheprovider --capture=sys -m "not slow" tests/test_native.py tests/ops/test_native_*.py
