#!/usr/bin/env bash
# `make gpu-report`: GPU tests, calibration and benchmarks in under 9 minutes, on a machine that has a GPU, python, torch, triton, numpy,
# pytest, pillow, safetensors, pyyaml, tqdm and scikit-learn; no network, nothing is installed.
# `ONLY="fir residual" make gpu-report` runs these parts alone.
# Rows are written to benchmarks/results/gpu-.../ as they come. A part that fails is named at the end, and the exit code is then 1.
set -uo pipefail
cd "$(dirname "$0")/.."

LIMIT=530 # seconds in all
PARTS=(tests calibration sample train group_norm residual fir posterior sanitizer)
declare -A BUDGET=([tests]=100 [calibration]=35 [posterior]=25 [group_norm]=60 [residual]=25 [fir]=20 [sample]=110 [train]=110 [sanitizer]=45) # seconds; the parts begin in turn
ONLY=${ONLY:-${PARTS[*]}}
for part in $ONLY; do
    [[ -v BUDGET[$part] ]] || { echo "gpu-report: no part '$part' in ONLY; there are ${PARTS[*]}" >&2; exit 2; }
done

sees_gpu() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }
python=${PYTHON:-python3}
[[ -z ${PYTHON:-} && -x .venv/bin/python ]] && sees_gpu .venv/bin/python && python=.venv/bin/python
sees_gpu "$python" || { echo "gpu-report: torch of $python sees no GPU (PYTHON=... names another python)" >&2; exit 2; }
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$python" -c 'import sys, torch, triton
print("python", sys.version.split()[0], "torch", torch.__version__, "cudnn", torch.backends.cudnn.version(), "triton", triton.__version__)'
command -v nvcc >/dev/null && nvcc --version | tail -n 1

# Triton compiles its kernels at their first call; the extension is built here, for this GPU, where it is not there or is older than its
# sources.
build_extension() {
    [[ ddgan_fast/_cuda.so -nt CMakeLists.txt && -z $(find csrc -newer ddgan_fast/_cuda.so) ]] && return
    local arch
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    CUDAARCHS=$arch-real "$python" setup.py -q build_ext --inplace | grep '^ddgan_fast:'
    [[ -f ddgan_fast/_cuda.so ]]
}
build_extension || echo "gpu-report: the extension could not be built; setuptools, cmake, a C++ compiler and nvcc build it"

gpu_tests() { # the files that hold GPU tests; options that need no plugin, and four workers where xdist is there
    local files workers=()
    mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
    "$python" -c 'import xdist' 2>/dev/null && workers=(-n 4)
    files+=(tests/kernels --ignore=tests/kernels/test_compile.py) # on a GPU all of them run there
    timeout -s INT -k 10 "$1" "$python" -m pytest -q --continue-on-collection-errors -o addopts= -o 'markers=gpu slow' --import-mode=importlib "${workers[@]}" "${files[@]}"
}

sanitize() { # out-of-bounds accesses and races, in a few cases that meet most kernels
    command -v compute-sanitizer >/dev/null || { echo "no compute-sanitizer here"; return 0; }
    local tool code found=0 few="serve_the_next_norm or behind_two_inputs or fits_both_layouts or values_are_those or unaligned"
    for tool in memcheck racecheck; do
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -s INT -k 10 "$(($1 / 2))" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$python" -m pytest -q -o addopts= -o 'markers=gpu slow' --import-mode=importlib tests/kernels/test_group_norm.py \
            tests/ops/test_extension_gpu.py -k "$few"
        code=$?
        case $code in
        0) ;;
        9) found=1 ;;
        124 | 137) echo "$tool: stopped at its limit, nothing found until then" ;;
        *) found=1 && echo "$tool: did not run to its end (code $code), which says nothing of the kernels" ;;
        esac
    done
    return $found
}

run() { # part, seconds it may take at most
    case $1 in
    tests) gpu_tests "$2" ;;
    sanitizer) sanitize "$2" ;;
    *) timeout -k 10 "$2" "$python" -m "benchmarks.$1" --seconds "${BUDGET[$1]}" ;;
    esac
}

failed=()
for part in "${PARTS[@]}"; do
    [[ " $ONLY " == *" $part "* ]] || continue
    left=$((LIMIT - SECONDS))
    most=$((BUDGET[$part] + 20))
    echo "== $part (at ${SECONDS} s)"
    if ((left < 10)); then
        echo "gpu-report: no time left for $part"
        failed+=("$part")
        continue
    fi
    run "$part" $((most < left ? most : left))
    code=$?
    ((code == 124)) && echo "gpu-report: $part was stopped at its limit"
    ((code == 0)) || failed+=("$part")
done
echo "== ${SECONDS} s; failed: ${failed[*]:-none}"
((${#failed[@]} == 0))
