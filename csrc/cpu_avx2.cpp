// The CPU kernels for processors with AVX2, eight counters at a time.
#include "avx2.h"
#include "cpu_kernels.h"

namespace ddgan {
Kernels avx2_kernels() { return kernels(); }
}  // namespace ddgan
