// The ops of the U-Net for any processor.
#include "unet_kernels.h"

namespace ddgan {
UnetKernels baseline_unet_kernels() { return unet_kernels(); }
}  // namespace ddgan
