// The ops of the U-Net for processors with AVX2.
#include "unet_kernels.h"

namespace ddgan {
UnetKernels avx2_unet_kernels() { return unet_kernels(); }
}  // namespace ddgan
