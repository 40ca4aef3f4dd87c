// The convolution for processors with AVX2 and FMA: twelve registers of sums, so that the multiplications never wait for one.
namespace ddgan {
namespace {
constexpr int kLanes = 8, kRows = 6;
}
}  // namespace ddgan

#include "winograd_kernels.h"

namespace ddgan {
ConvKernels avx2_conv() { return {conv_inputs, conv_outputs}; }
}  // namespace ddgan
