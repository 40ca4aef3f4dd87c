// The CPU kernels as a table of functions, one table for each kind of processor.
#pragma once

#include <cstdlib>
#include <string>

#include "posterior.h"

namespace ddgan {

// Each function works on the tiles [begin, end) of batch * tiles_of(args). The first index is Storage.
struct Kernels {
  using Range = void (*)(const Args&, int64_t begin, int64_t end);
  Range posterior[3], final_uint8[3], pair[3], normal;
};

Kernels baseline_kernels();
#ifdef DDGAN_AVX2
Kernels avx2_kernels();

enum class Vectors { kBaseline, kAvx2, kAvx512 };

// What the processor has, or less where the environment says DDGAN_CPU=baseline or avx2: so tests compare the variants.
inline Vectors vectors() {
  const char* most = std::getenv("DDGAN_CPU");
  const std::string limit = most ? most : "";
  if (limit == "baseline" || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Vectors::kBaseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  return limit == "avx2" || !avx512 ? Vectors::kAvx2 : Vectors::kAvx512;
}
#endif

namespace {

// Tiles of one image: runs of 2048 elements, or of 64 pixels in channels_last.
inline int64_t tiles_of(const Args& a) {
  return a.channels_last ? (a.pixels + 63) / 64 : (a.channels * a.pixels + 2047) / 2048;
}

}  // namespace
}  // namespace ddgan
