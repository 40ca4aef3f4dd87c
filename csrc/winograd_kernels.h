// The kernels of winograd.h, in vectors of kLanes channels and kRows tiles at a time; a file that includes this one defines both.
//
// Every output is one chain of sums in a fixed order: its bits do not depend on the tiles, images and threads beside it.
#pragma once

#include <cstring>

#include "winograd.h"

namespace ddgan {
namespace {

typedef float F __attribute__((vector_size(kLanes * sizeof(float))));
constexpr int kVectors = kPanel / kLanes;

// The next channels, of which `left` are there.
inline F load(const float* from, int64_t left = kLanes) {
  F out = {};
  if (left >= kLanes) memcpy(&out, from, sizeof out);
  else memcpy(&out, from, static_cast<size_t>(left) * sizeof(float));
  return out;
}
inline void store(F value, float* to, int64_t left = kLanes) {
  if (left >= kLanes) memcpy(to, &value, sizeof value);
  else memcpy(to, &value, static_cast<size_t>(left) * sizeof(float));
}

constexpr float kA = 0.625f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;  // the points +-a and +-b

// B^T d of a row or a column; the points are in the order 0, a, -a, b, -b, infinity.
inline void forward(const F (&d)[6], F (&out)[6]) {
  const F even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
  const F even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
  out[0] = kA2 * kB2 * d[0] + (d[4] - (kA2 + kB2) * d[2]);
  out[1] = even_a + odd_a;
  out[2] = even_a - odd_a;
  out[3] = even_b + odd_b;
  out[4] = even_b - odd_b;
  out[5] = kA2 * kB2 * d[1] + (d[5] - (kA2 + kB2) * d[3]);
}

// A^T m of a row or a column.
inline void backward(const F (&m)[6], F (&out)[4]) {
  const F even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  out[0] = m[0] + even_a + even_b;
  out[1] = kA * odd_a + kB * odd_b;
  out[2] = kA2 * even_a + kB2 * even_b;
  out[3] = kA2 * kA * odd_a + kB2 * kB * odd_b + m[5];
}

struct Place {
  int64_t image, y, x;  // of the first pixel of a tile's output

  Place(const Conv& conv, int64_t tile)
      : image(tile / conv.columns / conv.rows),
        y(kTile * (tile / conv.columns % conv.rows)),
        x(kTile * (tile % conv.columns)) {}
  int64_t pixel(const Conv& conv, int64_t i, int64_t j) const { return (image * conv.height + y + i) * conv.width + x + j; }
};

void conv_inputs(const Conv& conv, int64_t tile, float* points) {
  const Place at(conv, tile);
  const float* pixel[6][6];
  for (int64_t i = 0; i < 6; ++i) {
    for (int64_t j = 0; j < 6; ++j) {
      const int64_t y = at.y + i - 1, x = at.x + j - 1;
      const bool inside = y >= 0 && y < conv.height && x >= 0 && x < conv.width;
      pixel[i][j] = inside ? conv.x + at.pixel(conv, i - 1, j - 1) * conv.inputs : conv.zeros;
    }
  }
  for (int64_t c = 0; c < conv.inputs; c += kLanes) {
    const int64_t left = conv.inputs - c;
    F half[6][6];
    for (int j = 0; j < 6; ++j) {
      F d[6], out[6];
      for (int i = 0; i < 6; ++i) {
        d[i] = load(pixel[i][j] + c, left);
        __builtin_prefetch(pixel[i][j] + c + kTile * conv.inputs);  // the same pixel of the next tile
      }
      forward(d, out);
      for (int i = 0; i < 6; ++i) half[i][j] = out[i];
    }
    for (int i = 0; i < 6; ++i) {
      F out[6];
      forward(half[i], out);
      for (int j = 0; j < 6; ++j) store(out[j], points + (6 * i + j) * conv.point_stride + c, left);
    }
  }
}

// out [tiles, kPanel] = points [tiles, inputs] * weight [inputs, kPanel], the sums in registers.
template <int tiles>
inline void product(const float* points, const float* weight, int64_t inputs, float* out) {
  F sum[tiles][kVectors] = {};
  for (int64_t k = 0; k < inputs; ++k) {
    F w[kVectors];
    __builtin_prefetch(weight + (inputs + k) * kPanel);  // of the next point
    for (int j = 0; j < kVectors; ++j) w[j] = load(weight + k * kPanel + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < tiles; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += points[i * inputs + k] * w[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < tiles; ++i) {
    for (int j = 0; j < kVectors; ++j) store(sum[i][j], out + i * kPanel + j * kLanes);
  }
}

template <int tiles>
void products(const float* points, const float* weight, int64_t inputs, int64_t count, float* out) {
  for (; count >= tiles; count -= tiles) {
    product<tiles>(points, weight, inputs, out);
    points += tiles * inputs, out += tiles * kPanel;
  }
  if constexpr (tiles > 1) {
    if (count) products<tiles / 2>(points, weight, inputs, count, out);
  }
}

void conv_outputs(const Conv& conv, const float* points, int64_t panel, int64_t begin, int64_t end) {
  alignas(64) float m[kPoints][kMostTiles * kPanel];
  const float* weight = conv.weight + panel * kPoints * conv.inputs * kPanel;
  for (int64_t p = 0; p < kPoints; ++p) {
    products<kRows>(points + p * conv.point_stride, weight + p * conv.inputs * kPanel, conv.inputs, end - begin, m[p]);
  }
  const int64_t first = panel * kPanel, channels = conv.outputs - first < kPanel ? conv.outputs - first : kPanel;
  for (int64_t tile = begin; tile < end; ++tile) {
    const Place at(conv, tile);
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int64_t left = channels - c;
      F half[4][6];
      for (int j = 0; j < 6; ++j) {
        F d[6], out[4];
        for (int i = 0; i < 6; ++i) d[i] = load(m[6 * i + j] + (tile - begin) * kPanel + c);
        backward(d, out);
        for (int i = 0; i < 4; ++i) half[i][j] = out[i];
      }
      const F bias = conv.bias ? load(conv.bias + first + c, left) : F{};
      for (int64_t i = 0; i < kTile && at.y + i < conv.height; ++i) {
        F out[4];
        backward(half[i], out);
        for (int64_t j = 0; j < kTile && at.x + j < conv.width; ++j) {
          const int64_t offset = at.pixel(conv, i, j) * conv.outputs + first + c;
          F value = out[j] + bias;
          if (conv.join) value += load(conv.join + offset, left);
          store(value * conv.scale, conv.out + offset, left);
        }
      }
    }
  }
}

}  // namespace
}  // namespace ddgan
