// Group norm, residual join and FIR resampling over channels_last images. Included by unet_baseline.cpp, unet_avx2.cpp and
// unet_avx512.cpp, which give the same bits: every loop over channels is one that the compiler turns into vectors, and nothing is fused.
#pragma once

#include <cmath>
#include <cstring>

#include "philox.h"
#include "unet.h"

namespace ddgan {
namespace {

// Not std::min, whose code the linker would share with processors that lack AVX2.
template <class T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}

// e^x to 1 unit in the last place; below -86 it is e^-86, from 88.73 on, and of NaN, infinite or NaN.
// x = n log 2 + r, where n is read off the last bits of a sum that rounds to whole numbers. n reaches 128, which 2^n does not.
// The limits are compared as whole numbers, by which floats of one sign are ordered too: that is one instruction each.
inline float exponential(float x) {
  const int32_t below = smaller(Scalar::bits(x), 0x42B20000);                                            // 89
  x = Scalar::value(static_cast<int32_t>(smaller(static_cast<uint32_t>(below), uint32_t{0xC2AC0000})));  // -86
  const float rounded = x * 1.44269504f + 0x1.8p23f, n = rounded - 0x1.8p23f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  const float square = r * r;  // below, the best polynomial of (e^r - 1 - r) / r^2, as a tree: a chain would wait for each term
  const float tail = (0.041668389f + r * 0.00836874545f) + square * 0.00138145394f;
  const float p = 1.0f + (r + square * ((0.49999994f + r * 0.166665211f) + square * tail));
  const uint32_t half = (static_cast<uint32_t>(Scalar::bits(rounded)) << 23) + 0x3F000000u;  // 2^(n - 1)
  return p * Scalar::value(static_cast<int32_t>(half)) * 2.0f;
}

inline float swish(float x) { return x / (1.0f + exponential(-x)); }

struct Part {
  int64_t image, pixels, at;  // at: of its first pixel, counted over the batch
};

inline Part part_of(const NormArgs& a, int64_t unit) {
  const int64_t image = a.first + unit / a.parts, first = unit % a.parts * a.run;
  return {image, smaller(a.run, a.pixels - first), image * a.pixels + first};
}

// The mean of each channel over a part, rounded, and then the sums of what exceeds it: nothing cancels, whatever the mean.
// Four pixels at a time, as the sums wait in memory.
void channel_moments(const float* x, int64_t pixels, int64_t channels, float* __restrict__ mean, float* __restrict__ sum,
                     float* __restrict__ squares) {
  for (float* row : {mean, sum, squares}) memset(row, 0, static_cast<size_t>(channels) * sizeof(float));
  const int64_t fours = pixels / 4 * 4;
  for (int64_t p = 0; p < fours; p += 4) {
    const float *x0 = x + p * channels, *x1 = x0 + channels, *x2 = x1 + channels, *x3 = x2 + channels;
    for (int64_t c = 0; c < channels; ++c) mean[c] += (x0[c] + x1[c]) + (x2[c] + x3[c]);
  }
  for (int64_t p = fours; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) mean[c] += x[p * channels + c];
  }
  const float count = static_cast<float>(pixels);
  for (int64_t c = 0; c < channels; ++c) mean[c] /= count;
  for (int64_t p = 0; p < fours; p += 4) {
    const float *x0 = x + p * channels, *x1 = x0 + channels, *x2 = x1 + channels, *x3 = x2 + channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float d0 = x0[c] - mean[c], d1 = x1[c] - mean[c], d2 = x2[c] - mean[c], d3 = x3[c] - mean[c];
      sum[c] += (d0 + d1) + (d2 + d3);
      squares[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
    }
  }
  for (int64_t p = fours; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const float d = x[p * channels + c] - mean[c];
      sum[c] += d;
      squares[c] += d * d;
    }
  }
}

void moments(const NormArgs& a, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part part = part_of(a, unit);
    float* row = a.moments + unit * 3 * a.channels;
    for (const Source& s : a.source) {
      channel_moments(s.data + part.at * s.channels, part.pixels, s.channels, row, row + a.channels, row + 2 * a.channels);
      row += s.channels;
    }
  }
}

inline float entry(const Row& row, int64_t image, int64_t c) { return row.data ? row.data[image * row.stride + c] : 0.0f; }

// Mean and variance of each group in double, from all parts of its channels.
void coefficients(const NormArgs& a, int64_t begin, int64_t end) {
  const int64_t channels = a.channels / a.groups, row = 3 * a.channels;
  const double count = static_cast<double>(channels * a.pixels);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = a.first + unit / a.groups, c0 = unit % a.groups * channels;
    const float* const m = a.moments + unit / a.groups * a.parts * row;
    const auto added = [&](int64_t c) { return static_cast<double>(entry(a.bias, image, c)) + entry(a.embedding, image, c); };
    const auto over_parts = [&](const auto& term) {
      double total = 0;
      for (int64_t c = c0; c < c0 + channels; ++c) {
        for (int64_t i = 0; i < a.parts; ++i) {
          const double pixels = static_cast<double>(smaller(a.run, a.pixels - i * a.run));
          const float* at = m + i * row + c;
          total += term(pixels, added(c) + at[0], at[a.channels], at[2 * a.channels]);
        }
      }
      return total / count;
    };
    const double mean = over_parts([](double n, double near, double sum, double) { return n * near + sum; });
    const double variance = over_parts([mean](double n, double near, double sum, double squares) {
      const double d = near - mean;
      return squares + d * (2 * sum + n * d);
    });
    const double rstd = 1 / sqrt(variance + a.eps);
    float *centre = a.coefficients + unit / a.groups * row, *factor = centre + a.channels, *offset = factor + a.channels;
    for (int64_t c = c0; c < c0 + channels; ++c) {
      const double scale = rstd * entry(a.scale, image, c);
      centre[c] = static_cast<float>(mean - added(c));
      factor[c] = static_cast<float>(scale);
      offset[c] = static_cast<float>(entry(a.shift, image, c) + (centre[c] + added(c) - mean) * scale);
    }
  }
}

template <bool kSwish>
void normalise(const float* __restrict__ x, int64_t channels, const float* __restrict__ centre, const float* __restrict__ factor,
               const float* __restrict__ offset, float* __restrict__ out) {
  for (int64_t c = 0; c < channels; ++c) {
    const float y = (x[c] - centre[c]) * factor[c] + offset[c];
    out[c] = kSwish ? swish(y) : y;
  }
}

void apply(const NormArgs& a, int64_t begin, int64_t end) {
  const auto row = a.swish ? normalise<true> : normalise<false>;
  for (int64_t unit = begin; unit < end; ++unit) {
    const Part part = part_of(a, unit);
    const float* const k = a.coefficients + (part.image - a.first) * 3 * a.channels;
    for (int64_t p = part.at; p < part.at + part.pixels; ++p) {
      int64_t c = 0;
      for (const Source& s : a.source) {
        const float* x = s.data + p * s.channels;
        row(x, s.channels, k + c, k + a.channels + c, k + 2 * a.channels + c, a.out + p * a.channels + c);
        if (a.cat) memcpy(a.cat + p * a.channels + c, x, static_cast<size_t>(s.channels) * sizeof(float));
        c += s.channels;
      }
    }
  }
}

// The sums are in the order of the reference, whose bits these are.
void join(const JoinArgs& a, int64_t begin, int64_t end) {
  const float* __restrict__ bias = a.bias;
  for (int64_t p = begin; p < end; ++p) {
    const float *x = a.x + p * a.channels, *h = a.h + p * a.channels;
    float* __restrict__ out = a.out + p * a.channels;
    for (int64_t c = 0; c < a.channels; ++c) out[c] = (x[c] + (h[c] + bias[c])) * a.scale;
  }
}

// A filter: output o takes kTaps inputs from first(o) on, with the weights of its parity.
struct Up2 {
  static constexpr int kTaps = 2;
  static int64_t first(int64_t o) { return (o + 1) / 2 - 1; }
  static constexpr float kWeights[2][kTaps] = {{0.25f, 0.75f}, {0.75f, 0.25f}};
};
template <int kStep, int kPad>
struct Smooth {
  static constexpr int kTaps = 4;
  static int64_t first(int64_t o) { return kStep * o - kPad; }
  static constexpr float kWeights[2][kTaps] = {{0.125f, 0.375f, 0.375f, 0.125f}, {0.125f, 0.375f, 0.375f, 0.125f}};
};

inline void combine(const float* const (&in)[2], const float (&w)[2], int64_t count, float* __restrict__ out) {
  for (int64_t i = 0; i < count; ++i) out[i] = w[0] * in[0][i] + w[1] * in[1][i];
}
inline void combine(const float* const (&in)[4], const float (&w)[4], int64_t count, float* __restrict__ out) {
  for (int64_t i = 0; i < count; ++i) out[i] = w[0] * (in[0][i] + in[3][i]) + w[1] * (in[1][i] + in[2][i]);
}

constexpr int64_t kColumns = 32, kChunk = 64;  // results and channels of a tile, whose inputs fit the first-level cache

// Rows of results, tile by tile: first down the columns of the inputs, then along the row.
template <class Filter>
void fir(const FirArgs& a, int64_t begin, int64_t end) {
  constexpr int kTaps = Filter::kTaps;
  float columns[2 * kColumns + kTaps][kChunk];
  const float zeros[kChunk] = {};
  for (int64_t row = begin; row < end; ++row) {
    const int64_t oy = row % a.out_height, y0 = Filter::first(oy);
    const float* image = a.x + row / a.out_height * a.height * a.width * a.channels;
    for (int64_t c = 0; c < a.channels; c += kChunk) {
      const int64_t count = smaller(kChunk, a.channels - c);
      for (int64_t ox0 = 0; ox0 < a.out_width; ox0 += kColumns) {
        const int64_t ox1 = smaller(ox0 + kColumns, a.out_width), x0 = Filter::first(ox0);
        for (int64_t x = x0; x < Filter::first(ox1 - 1) + kTaps; ++x) {
          const float* in[kTaps];
          for (int i = 0; i < kTaps; ++i) {
            const int64_t y = y0 + i;
            const bool inside = 0 <= y && y < a.height && 0 <= x && x < a.width;
            in[i] = inside ? image + (y * a.width + x) * a.channels + c : zeros;
          }
          combine(in, Filter::kWeights[oy % 2], count, columns[x - x0]);
        }
        for (int64_t ox = ox0; ox < ox1; ++ox) {
          const float* in[kTaps];
          for (int i = 0; i < kTaps; ++i) in[i] = columns[Filter::first(ox) - x0 + i];
          combine(in, Filter::kWeights[ox % 2], count, a.out + (row * a.out_width + ox) * a.channels + c);
        }
      }
    }
  }
}

constexpr UnetKernels unet_kernels() {
  return {moments, coefficients, apply, join, {fir<Up2>, fir<Smooth<2, 1>>, fir<Smooth<1, 2>>}};
}

}  // namespace
}  // namespace ddgan
