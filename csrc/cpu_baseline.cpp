// The CPU kernels for any processor, one counter after the other.
#include "philox.h"

namespace ddgan {
namespace {

void normals(const Key& key, uint32_t block, int64_t groups, float* out) {
  for (int64_t i = 0; i < 8 * groups; ++i) {
    float n[4];
    normals4<Scalar>(key, block + static_cast<uint32_t>(i), n);
    memcpy(out + 4 * i, n, sizeof n);
  }
}

}  // namespace
}  // namespace ddgan

#include "cpu_kernels.h"

namespace ddgan {
Kernels baseline_kernels() { return kernels(); }
}  // namespace ddgan
