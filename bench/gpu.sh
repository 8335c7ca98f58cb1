#!/usr/bin/env bash
# Everything that needs a GPU, in one go and under ten minutes: build, tests, compute-sanitizer, repeatability, `fastgan verify`,
# benchmark. For a machine whose python3 holds torch with CUDA and whose PATH holds nvcc; no virtual environment, no network.
#
# A step that fails does not stop the others, and a tool that the machine refuses is passed over; summary.txt tells both.
# Exit code: 0 no step failed, 1 one did, 2 nothing was run (no GPU).
# Output: one folder, $RESULTS, else $OUT, else bench/results/gpu-<name>-<date>; at most eight files, written as they come.
#
# --dry-run: the plan with its limits, and whatever of it needs no GPU, in a temporary folder. Exit code: 0 or 1.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

PYTHON=${PYTHON:-python3}
NOT_RUN=77 # a step's exit code where the machine lacks or refuses a tool; its last line is the reason

refuse() {
    echo "bench/gpu.sh: $1: nothing was run" >&2
    exit 2
}

versions() {
    nvidia-smi
    nvcc --version
    git rev-parse HEAD
    "$PYTHON" --version
    "$PYTHON" -m pip list 2>/dev/null | grep -iE '^(torch|triton|numpy|pytest|hypothesis|setuptools|ninja|matplotlib)'
    "$PYTHON" -c 'import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_capability())'
}

build() {
    # For the card that is found. The system's Python may refuse pip; then the modules are built into the source tree, where
    # `import fastgan` finds them too.
    PIP_BREAK_SYSTEM_PACKAGES=1 "$PYTHON" -m pip install --no-build-isolation --no-deps -v -e . ||
        { echo "pip refused; building in place"; "$PYTHON" setup.py build_ext --inplace; } || return
    # Not `fastgan info`: the command line needs typer, which cannot be fetched without a network.
    "$PYTHON" -c 'from fastgan.native import build_info, native_reason
print(build_info())
raise SystemExit(native_reason("cuda"))'
}

tests() {
    local parallel=()
    "$PYTHON" -c 'import xdist' 2>/dev/null && parallel=(-n 8)
    local module
    for module in hypothesis typer; do
        "$PYTHON" -c "import $module" 2>/dev/null || echo "no $module: the test files that import it are errors below"
    done
    # What runs on the CPU alone, in processes of its own, is left out: the minutes are the GPU's.
    local left_out=(--ignore tests/commands --ignore tests/data --ignore tests/evaluation
        --ignore tests/distributed --ignore tests/test_processes.py --ignore tests/training/test_durability.py)
    "$PYTHON" -m pytest -q -p no:cacheprovider -m 'not slow' "${parallel[@]}" "${left_out[@]}" \
        --continue-on-collection-errors "$@" tests
}

sanitize() {
    local tool output status
    tool=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer) ||
        { echo "compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin"; return $NOT_RUN; }
    output=$(mktemp)
    # Without torch's cache every tensor is an allocation of its own: a read beyond its end is not one of its neighbour.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$tool" --tool "$1" --error-exitcode 99 "$PYTHON" -m bench.sanitize_gpu 2>&1 |
        tee "$output"
    status=${PIPESTATUS[0]}
    # No verdict and no error of Python's: the tool did not get as far as our program, so nothing was found about it.
    if [ "$status" -ne 0 ] && ! grep -q Traceback "$output" &&
        { ! grep -q SUMMARY "$output" || grep -qE 'Internal Sanitizer Error|Device not supported' "$output"; }; then
        echo "compute-sanitizer refuses this machine: $(grep -m 1 '^=.*[Ee]rror' "$output" || tail -n 1 "$output")"
        status=$NOT_RUN
    fi
    rm -f "$output"
    return "$status"
}

verify() {
    if "$PYTHON" -c 'import typer' 2>/dev/null; then
        "$PYTHON" -m fastgan.cli verify --device cuda --quick
    else
        echo "no typer, so no command line: the same by the function behind it"
        "$PYTHON" -c 'import torch, fastgan.verify
raise SystemExit(fastgan.verify.run(torch.device("cuda"), None, True, None))'
    fi
}

measure() {
    # No odd shapes, no networks apart from their steps and blocks: the minutes are for our kernels. The order is that of
    # bench/plan.py, torch.compile included; what the minutes do not reach is listed. 20 seconds are for the start and the end.
    local minutes
    minutes=$("$PYTHON" -c 'import sys; print(f"{(int(sys.argv[1]) - 20) / 60:.2f}")' "$LIMIT") || return
    "$PYTHON" -m bench run --device cuda --quick --graphs --compile default max-autotune --batch 128 1024 \
        --minutes "$minutes" --out "$RESULTS/bench.json" \
        --group "training step" block conv_transpose2d conv2d batch_norm_act bce_with_logits discriminator_loss "$@"
}

report() {
    local plots=() status count
    [ -f "$RESULTS/bench.json" ] || { echo "the benchmark left no bench.json"; return $NOT_RUN; }
    if "$PYTHON" -c 'import matplotlib' 2>/dev/null; then
        plots=(--plots "$RESULTS")
    else
        echo "no plots: $PYTHON has no matplotlib" | tee -a "$RESULTS/summary.txt"
    fi
    "$PYTHON" -m bench report "$RESULTS/bench.json" "${plots[@]}"
    status=$?
    count=$(find "$RESULTS" -type f | wc -l)
    echo "$count files in $RESULTS"
    [ "$count" -le 8 ] || { echo "$count files, at most eight are meant to be there"; return 1; }
    return $status
}

# The limits add up to 585 s. What a step leaves of its time the next one may have: the compilation is given what it may take on
# slow cores (200 s on two that were shared), and on others the tests get the rest, and what these leave the benchmark in the end.
steps() {
    step versions 10 build.txt bash -c versions
    step build 190 build.txt bash -c build
    step tests 130 tests.txt bash -c tests
    step memcheck 30 checks.txt bash -c 'sanitize memcheck'
    step racecheck 30 checks.txt bash -c 'sanitize racecheck'
    step repeatability 35 checks.txt "$PYTHON" -m bench.repeat_gpu --seconds 20
    step verify 45 checks.txt bash -c verify
    step benchmark 100 bench.txt bash -c measure
    step report 15 bench.txt bash -c report
}

export -f versions build tests sanitize verify measure report
export PYTHON NOT_RUN FASTGAN_BUILD=cuda PYTHONUNBUFFERED=1

# check TITLE COMMAND...: a part of the dry run.
check() {
    local title=$1 status last
    shift
    "$@" >"$RESULTS/log" 2>&1
    status=$?
    last=$(tail -n 1 "$RESULTS/log")
    case $status in
        0) echo "$title: passed${last:+: $last}" ;;
        "$NOT_RUN") echo "$title: not run: $last" ;;
        *)
            tail -n 60 "$RESULTS/log"
            echo "$title: FAILED, exit code $status"
            failed+=("$title")
            ;;
    esac
}

compile() {
    # The same compilation as on the card's machine, for architectures that are named because there is no card to ask.
    export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
    local why
    # With --help it only says whether it could: FASTGAN_BUILD=cuda makes a missing nvcc an error with the reason in it.
    if ! why=$("$PYTHON" setup.py build_ext --help 2>&1); then
        echo "$why" | grep -v "to be built" | grep "^fastgan: FASTGAN_BUILD=cuda, but" || { echo "$why"; return 1; }
        return $NOT_RUN
    fi
    "$PYTHON" setup.py build_ext --build-temp "$RESULTS/objects" --build-lib "$RESULTS/modules" || return
    ls "$RESULTS"/modules/fastgan/_native_cuda*.so || return
    echo "for TORCH_CUDA_ARCH_LIST=$TORCH_CUDA_ARCH_LIST"
}

collect() {
    tests --collect-only
}

on_the_cpu() {
    # The interpreter of Triton stands for its compiler.
    TRITON_INTERPRET=1 "$PYTHON" -m bench.repeat_gpu --device cpu --repeats 2
}

sanitized_on_the_cpu() {
    "$PYTHON" -c 'import os, sys
from fastgan.native import native_reason
why = native_reason("cpu")
print(why or "the native CPU module is there")
sys.exit(int(os.environ["NOT_RUN"]) if why else 0)' || return
    "$PYTHON" -m bench.sanitize_gpu --device cpu
}

dry_run() {
    local sum=0 limit=0
    # The body of a function is its command: what is printed cannot differ from what is run.
    step() {
        sum=$((sum + $2))
        if [ "$1" = benchmark ]; then limit=$2; fi
        echo "== $1: at most $2 s, into $3: ${*:4}"
        if [ "$4" = bash ]; then declare -f "${6%% *}" | sed 's/^/    /'; fi
    }
    steps
    echo "== at most $sum s, $(((sum + 59) / 60)) minutes, in all"
    RESULTS=$(mktemp -d) || exit 1
    export RESULTS
    trap 'rm -rf "$RESULTS"' EXIT
    check syntax bash -n bench/gpu.sh
    check "the CUDA module" compile
    check "tests to be run" collect
    LIMIT=$limit check "cases to be measured" measure --list
    grep '^round' "$RESULTS/log" | sed 's/^/    /'
    check "the calls for compute-sanitizer, on the CPU" sanitized_on_the_cpu
    check "repeatability, on the CPU" on_the_cpu
    if [ "${#failed[@]}" -gt 0 ]; then
        printf 'FAILED: %s\n' "$(IFS=,; echo "${failed[*]}")"
        exit 1
    fi
    echo "nothing that needs no GPU failed"
    exit 0
}

failed=()
passed_over=()
spare=0
case "${1:-}" in
    --dry-run) dry_run ;;
    "") ;;
    *) refuse "$1 is unknown, there is --dry-run alone" ;;
esac

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
export RESULTS
summary=$RESULTS/summary.txt
# What an earlier run left would be taken for this one's.
rm -f "$RESULTS"/{build,tests,checks,bench}.txt "$RESULTS/bench.json" "$RESULTS"/{ratios,roofline,odd-shapes}-*.png

machine() {
    echo "machine: $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | head -n 1)"
    "$PYTHON" -c 'import platform, torch
print("versions: torch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version(),
      "Python", platform.python_version(), "capability", torch.cuda.get_device_capability())' 2>&1 | tail -n 1
    echo "commit: $(git rev-parse --short HEAD 2>&1 | head -n 1), $(date -u +%Y-%m-%dT%H:%MZ)"
    echo
}
machine >"$summary"

# step NAME SECONDS LOG COMMAND...: runs the command with a time limit of its own and goes on whatever happens.
step() {
    local title=$1 limit=$(($2 + spare)) log=$RESULTS/$3 begin=$SECONDS status line last
    shift 3
    echo "== $title" | tee -a "$log"
    LIMIT=$limit timeout --kill-after=5 "$limit" "$@" >>"$log" 2>&1
    status=$?
    spare=$((limit - (SECONDS - begin)))
    tail -n 15 "$log"
    last=$(tail -n 1 "$log" | cut -c 1-160)
    case $status in
        0) line="$title: passed" ;;
        "$NOT_RUN") line="$title: not run" passed_over+=("$title") ;;
        124 | 137) line="$title: FAILED, over its limit of $limit s" failed+=("$title") ;;
        *) line="$title: FAILED, exit code $status" failed+=("$title") ;;
    esac
    echo "$line ($((limit - spare)) s, $(basename "$log")): $last" | tee -a "$summary"
}

steps

# What fits on a page: what makes the figures rough (other work on the machine, a run that was cut), a row a group of cases and how
# many comparisons of each round were not reached. All of it is in bench.txt.
if grep -q '^## ' "$RESULTS/bench.txt"; then
    {
        echo
        grep '^\*\*' "$RESULTS/bench.txt"
        for section in 'Beside each form of torch' 'Not reached'; do
            sed -n "/^## $section/,/^## /{/^## $section/p;/^##/!p}" "$RESULTS/bench.txt" | grep -E '^(##|Its |\||\* )'
        done
        echo
    } >>"$summary"
fi
echo "results: $RESULTS"
[ "${#passed_over[@]}" -eq 0 ] || echo "not run: ${passed_over[*]}" | tee -a "$summary"
if [ "${#failed[@]}" -gt 0 ]; then
    echo "FAILED: ${failed[*]}" | tee -a "$summary"
    exit 1
fi
if [ "${#passed_over[@]}" -gt 0 ]; then
    echo "no step failed" | tee -a "$summary"
else
    echo "all steps passed" | tee -a "$summary"
fi
