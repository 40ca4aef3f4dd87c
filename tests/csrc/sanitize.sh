#!/usr/bin/env bash
# The CPU part of the extension built with ASan and UBSan, under the tests of its ops. Leaks are not looked for: Python has too many.
# Usage: tests/csrc/sanitize.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
compiler=$(command -v "${CXX:-g++}") || { echo "sanitize: no ${CXX:-g++} here" >&2; exit 1; }

cmake -S . -B "$folder/build" -DDDGAN_SANITIZE=address,undefined -DDDGAN_WERROR=ON >/dev/null
cmake --build "$folder/build" --target _C >/dev/null
# A copy of the package with this library: the installed one stays as it is.
cp -rL ddgan_fast "$folder/ddgan_fast"
rm -f "$folder"/ddgan_fast/_*.so "$folder/ddgan_fast/_build.json"
cp "$folder/build/_C.so" "$folder/ddgan_fast/_C.so"

sanitized() { # both libraries, or a C++ exception ends the process
    LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)" \
        ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$folder OMP_NUM_THREADS=2 "$python" -P "$@"
}
sanitized -c "from ddgan_fast.ops import extension
assert not extension.MISSING, extension.MISSING
assert str(extension.PACKAGE).startswith('$folder'), extension.PACKAGE"
sanitized -m pytest -q -p no:cacheprovider tests/ops/test_posterior.py tests/ops/test_q_sample.py tests/ops/test_philox.py \
    tests/ops/test_conv3x3.py -k "cpp or bits or depend or error or leaves or integers"
sanitized -m pytest -q -p no:cacheprovider tests/ops/test_unet_cpp.py -k "not compiles"
