// A 3x3 convolution by F(4x4, 3x3) of Winograd (Lavin and Gray, 2016): a tile is 4x4 pixels of the output, and the 6x6 of the
// input around it become 36 points. At each point the inputs are multiplied with the transformed weight, which takes 1/4 of
// the multiplications of a direct sum.
//
// The polynomials are taken at 0, +-5/8, +-3/2 and infinity. Of pairs +-a, +-b these have nearly the smallest error (Barabasz
// et al., 2018, on the choice), half that of +-1, +-2; and the constants of the transforms are exact in float32.
#pragma once

#include <cstdint>

#include "torch_abi.h"

namespace ddgan {

constexpr int64_t kTile = 4, kPoints = 36;
constexpr int64_t kPanel = 16;  // outputs whose weights lie side by side

// A block of tiles is transformed, multiplied and transformed back while its points stay in the second-level cache (1 MB
// holds those of 256 inputs), and each weight that is read serves all of it.
constexpr int64_t kMostTiles = 24;

// One call. x, join and out are channels_last; bias and join may be null.
struct Conv {
  const float* x = nullptr;
  const float* weight = nullptr;  // [panels, kPoints, inputs, kPanel], transformed
  const float* bias = nullptr;    // [outputs]
  const float* join = nullptr;
  const float* zeros = nullptr;  // [inputs]: what lies outside the image
  float* out = nullptr;
  float scale = 1.0f;
  int64_t batch = 0, inputs = 0, outputs = 0, height = 0, width = 0;
  int64_t rows = 0, columns = 0;  // of tiles
  int64_t point_stride = 0;       // from one point of a block to the next: [kPoints, tiles, inputs]
};

struct ConvKernels {
  // The points of one tile.
  void (*inputs)(const Conv&, int64_t tile, float* points);
  // The outputs of one panel, of the tiles [begin, end), whose points are a block.
  void (*outputs)(const Conv&, const float* points, int64_t panel, int64_t begin, int64_t end);
};

ConvKernels baseline_conv();
#ifdef DDGAN_AVX2
ConvKernels avx2_conv();
#endif

void define_conv(Library& library);
void implement_conv(Library& library);

}  // namespace ddgan
