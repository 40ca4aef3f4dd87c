// The ops of the U-Net that sampling on a CPU calls: float32, channels_last, no gradient. Arguments and kernel table.
#pragma once

#include <cstdint>

#include "torch_abi.h"

namespace ddgan {

struct Row {  // [C] or [B, C]; null where there is none
  const float* data = nullptr;
  int64_t stride = 0;  // from one image to the next
};

struct Source {  // [B, H, W, channels]
  const float* data = nullptr;
  int64_t channels = 0;
};

struct NormArgs {
  Source source[2];  // the second one, which may be empty, is normalised as if it lay behind the first
  Row bias, embedding, scale, shift;
  float *out = nullptr, *cat = nullptr;  // cat: both sources side by side, or null
  int64_t channels = 0, pixels = 0, groups = 0;
  double eps = 0;
  bool swish = false;
  // A part is a run of `run` pixels of one image; the last of an image may be shorter. That depends on the shape of an image
  // alone, so that its result does not depend on batch and threads.
  int64_t run = 0, parts = 0;
  float* moments = nullptr;       // [images, parts, 3, channels]: a value near the mean, sum and sum of squares of what exceeds it
  float* coefficients = nullptr;  // [images, 3, channels]: y = (x - centre) * factor + offset
  int64_t first = 0;              // image of the first row of moments and coefficients
};

struct JoinArgs {
  const float *x = nullptr, *h = nullptr, *bias = nullptr;
  float* out = nullptr;
  int64_t channels = 0;
  float scale = 1;
};

enum Fir { kUp2, kDown2, kBlur };

struct FirArgs {
  const float* x = nullptr;
  float* out = nullptr;
  int64_t channels = 0, height = 0, width = 0, out_height = 0, out_width = 0;
};

struct UnetKernels {
  void (*moments)(const NormArgs&, int64_t begin, int64_t end);       // over images * parts
  void (*coefficients)(const NormArgs&, int64_t begin, int64_t end);  // over images * groups
  void (*apply)(const NormArgs&, int64_t begin, int64_t end);         // over images * parts
  void (*join)(const JoinArgs&, int64_t begin, int64_t end);          // over pixels of all images
  void (*fir[3])(const FirArgs&, int64_t begin, int64_t end);         // over rows of all results
};

UnetKernels baseline_unet_kernels();
#ifdef DDGAN_AVX2
UnetKernels avx2_unet_kernels();
UnetKernels avx512_unet_kernels();
#endif

void define_unet(Library& library);
void implement_unet(Library& library);

}  // namespace ddgan
