#!/usr/bin/env bash
# Everything that needs a GPU, in one go and under ten minutes: build, tests, `fastgan verify`, benchmark, compute-sanitizer.
# For a machine whose python3 holds torch with CUDA and whose PATH holds nvcc; no virtual environment, no network.
#
# A step that fails does not stop the others. Exit code: 0 all steps passed, 1 one failed, 2 nothing was run (no GPU).
# Output: one folder, $RESULTS, else $OUT, else bench/results/gpu-<name>-<date>; at most eight files, written as they come.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

PYTHON=${PYTHON:-python3}

refuse() {
    echo "bench/gpu.sh: $1: nothing was run" >&2
    exit 2
}

command -v nvidia-smi >/dev/null || refuse "no nvidia-smi on PATH, so there is no NVIDIA GPU here"
nvidia-smi -L >/dev/null 2>&1 || refuse "nvidia-smi sees no GPU"
command -v "$PYTHON" >/dev/null || refuse "no $PYTHON on PATH"
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1 ||
    refuse "the torch of $PYTHON is missing or sees no CUDA GPU"

name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 | tr -cs '[:alnum:]\n' - | tr '[:upper:]' '[:lower:]')
name=${name%-}
RESULTS=${RESULTS:-${OUT:-bench/results/gpu-${name:-unknown}-$(date +%Y-%m-%d)}}
mkdir -p "$RESULTS" || refuse "the folder $RESULTS cannot be made"
RESULTS=$(cd "$RESULTS" && pwd)
summary=$RESULTS/summary.txt
: >"$summary"
failed=()

# step NAME SECONDS LOG COMMAND...: runs the command with a time limit of its own and goes on whatever happens.
step() {
    local title=$1 limit=$2 log=$RESULTS/$3 begin=$SECONDS status
    shift 3
    echo "== $title"
    timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1
    status=$?
    tail -n 15 "$log"
    local line="$title: passed"
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        line="$title: FAILED, over its limit of $limit s"
    elif [ "$status" -ne 0 ]; then
        line="$title: FAILED, exit code $status"
    fi
    [ "$status" -eq 0 ] || failed+=("$title")
    echo "$line ($((SECONDS - begin)) s, $(basename "$log"))" | tee -a "$summary"
}

skip() { echo "$1: not run, $2" | tee -a "$summary"; }

versions() {
    nvidia-smi
    nvcc --version
    git rev-parse HEAD
    "$PYTHON" --version
    "$PYTHON" -m pip list 2>/dev/null | grep -iE '^(torch|triton|numpy|pytest|hypothesis|setuptools|ninja)'
    "$PYTHON" -c 'import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_capability())'
}

build() {
    # The system's Python may refuse pip; then the modules are built into the source tree, where `import fastgan` finds them too.
    PIP_BREAK_SYSTEM_PACKAGES=1 "$PYTHON" -m pip install --no-build-isolation --no-deps -v -e . ||
        { echo "pip refused; building in place"; "$PYTHON" setup.py build_ext --inplace; } || return
    "$PYTHON" -m fastgan.cli info
}

tests() {
    local parallel=()
    "$PYTHON" -c 'import xdist' 2>/dev/null && parallel=(-n 8)
    # What runs on the CPU alone, in processes of its own, is left out: the minutes are the GPU's.
    local left_out=(--ignore tests/commands --ignore tests/data --ignore tests/evaluation
        --ignore tests/distributed --ignore tests/test_processes.py --ignore tests/training/test_durability.py)
    "$PYTHON" -m pytest -q -p no:cacheprovider -m 'not slow' "${parallel[@]}" "${left_out[@]}" tests
}

bench() {
    # No torch.compile, no odd shapes, no networks apart from their steps: the minutes are for our kernels.
    "$PYTHON" -m bench run --device cuda --quick --graphs --minutes 1.8 --out "$RESULTS/bench.json" \
        --group "training step" conv_transpose2d conv2d batch_norm_act bce_with_logits
    local status=$?
    "$PYTHON" -m bench report "$RESULTS/bench.json"
    return $status
}

export -f versions build tests bench
export PYTHON RESULTS FASTGAN_BUILD=cuda PYTHONUNBUFFERED=1

# The limits add up to 580 s.
step versions 20 versions.txt bash -c versions
step build 150 build.txt bash -c build
step tests 165 tests.txt bash -c tests
step verify 75 verify.txt "$PYTHON" -m fastgan.cli verify --device cuda --quick
step benchmark 120 bench.txt bash -c bench
if command -v compute-sanitizer >/dev/null; then
    # The forced backends: `auto` may choose cuDNN, which is not what is to be looked at.
    step sanitizer 50 sanitizer.txt compute-sanitizer --error-exitcode 99 "$PYTHON" -c '
import torch, fastgan
from fastgan import functional as f
with fastgan.use_backend("triton"):
    x = torch.randn(2, 3, 5, 7, device="cuda", requires_grad=True)
    y = f.conv_transpose2d(x, torch.randn(3, 5, 4, 4, device="cuda"), stride=2, padding=1)
    y = f.batch_norm_act(y, None, None, training=True)
    f.binary_cross_entropy_with_logits(y, 1.0).backward()
    print(float(x.grad.sum()))
with fastgan.use_backend("native"):
    print(float(f.binary_cross_entropy_with_logits(y.detach().contiguous(), 1.0)))'
else
    skip sanitizer "compute-sanitizer is not on PATH"
fi

echo "results: $RESULTS"
if [ "${#failed[@]}" -gt 0 ]; then
    echo "FAILED: ${failed[*]}" | tee -a "$summary"
    exit 1
fi
echo "all steps passed" | tee -a "$summary"
