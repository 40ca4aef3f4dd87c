// The convolution for any processor, in vectors of 16 bytes.
namespace ddgan {
namespace {
constexpr int kLanes = 4, kRows = 2;
}
}  // namespace ddgan

#include "winograd_kernels.h"

namespace ddgan {
ConvKernels baseline_conv() { return {conv_inputs, conv_outputs}; }
}  // namespace ddgan
