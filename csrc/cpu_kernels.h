// The ops on a CPU, over a range of tiles. Included by cpu_baseline.cpp and cpu_avx2.cpp, which are compiled for different
// processors and give the same bits; each defines normals() before it.
//
// A tile is a run of elements of one image (contiguous) or a run of pixels with all their channels (channels_last). Its
// noise is made in a buffer that stays in the first-level cache, in the order of memory, and is then read once.
#pragma once

#include <cmath>
#include <cstring>

#include "cpu.h"
#include "philox.h"

namespace ddgan {
namespace {

constexpr int64_t kRun = 2048;                    // elements of a contiguous tile, a multiple of 32
constexpr int64_t kPixels = 64, kChannels = 32;   // of a channels_last tile: kPixels * kChannels = kRun

inline float to_float(float x) { return x; }
inline void to_storage(float x, float& out) { out = x; }

struct Bfloat16 {
  uint16_t bits;
};
inline float to_float(Bfloat16 x) { return Scalar::value(static_cast<int32_t>(static_cast<uint32_t>(x.bits) << 16)); }
inline void to_storage(float x, Bfloat16& out) {  // to nearest, ties to even
  const uint32_t bits = static_cast<uint32_t>(Scalar::bits(x));
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  out.bits = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

struct Half {
  uint16_t bits;
};
inline float to_float(Half x) {
  const uint32_t magnitude = (x.bits & 0x7FFFu) << 13;  // shifted into the exponent of float, which is 112 larger
  const float wide = Scalar::value(static_cast<int32_t>(magnitude)) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0F800000u ? 0x7F800000u : 0u;
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  return Scalar::value(static_cast<int32_t>(static_cast<uint32_t>(Scalar::bits(wide)) | special | sign));
}
inline void to_storage(float x, Half& out) {  // to nearest, ties to even
  const uint32_t bits = static_cast<uint32_t>(Scalar::bits(x)), magnitude = bits & 0x7FFFFFFFu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
  const float aligned = Scalar::value(static_cast<int32_t>(magnitude)) + 0.5f;  // adds to a step of 2^-24
  const uint32_t subnormal = static_cast<uint32_t>(Scalar::bits(aligned)) - 0x3F000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t large = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  out.bits = static_cast<uint16_t>((magnitude >= 0x477FF000u ? large : finite) | (bits >> 16 & 0x8000u));
}

// Noise of the elements [first, first + count) of an image; `normals` makes groups of 32.
void draw(const Key& key, int64_t first, int64_t count, float* out) {
  while (count > 0) {
    const int64_t skip = first % 32, groups = skip ? 0 : count / 32;
    const uint32_t block = static_cast<uint32_t>((first - skip) / 4);
    int64_t take = 32 * groups;
    if (groups) {
      normals(key, block, groups, out);
    } else {
      float group[32];
      take = count < 32 - skip ? count : 32 - skip;
      normals(key, block, 1, group);
      memcpy(out, group + skip, static_cast<size_t>(take) * sizeof(float));
    }
    first += take, count -= take, out += take;
  }
}

// Calls body(offset within the image, count, n) for the runs of memory that a tile consists of; n[i][..count] is the noise
// of keys[i], in the order of memory.
template <int kKeys, class Body>
void runs(const Args& a, int64_t tile, const Key* keys, const Body& body) {
  float noise[2][kRun], planar[kPixels];
  const float* const n[2] = {noise[0], noise[1]};
  if (!a.channels_last) {
    const int64_t first = tile * kRun, elements = a.channels * a.pixels;
    const int64_t count = elements - first < kRun ? elements - first : kRun;
    for (int i = 0; i < kKeys; ++i) draw(keys[i], first, count, noise[i]);
    body(first, count, n);
    return;
  }
  const int64_t first = tile * kPixels, pixels = a.pixels - first < kPixels ? a.pixels - first : kPixels;
  for (int64_t c0 = 0; c0 < a.channels; c0 += kChannels) {
    const int64_t channels = a.channels - c0 < kChannels ? a.channels - c0 : kChannels;
    for (int i = 0; i < kKeys; ++i) {
      for (int64_t c = 0; c < channels; ++c) {
        draw(keys[i], (c0 + c) * a.pixels + first, pixels, planar);
        for (int64_t p = 0; p < pixels; ++p) noise[i][p * channels + c] = planar[p];
      }
    }
    if (channels == a.channels) {
      body(first * channels, pixels * channels, n);
      continue;
    }
    for (int64_t p = 0; p < pixels; ++p) {
      const float* const row[2] = {noise[0] + p * channels, noise[1] + p * channels};
      body((first + p) * a.channels + c0, channels, row);
    }
  }
}

template <class T>
void posterior(const Args& a, int64_t begin, int64_t end) {
  const int64_t tiles = tiles_of(a), elements = a.channels * a.pixels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / tiles, tile = unit % tiles;
    const float* row = a.table + a.t[b];
    const float c0 = row[0], ct = row[a.steps], deviation = row[2 * a.steps];
    const T* x0 = static_cast<const T*>(a.x0) + b * elements;
    const T* x_t = static_cast<const T*>(a.x_t) + b * elements;
    T* out = static_cast<T*>(a.out[0]) + b * elements;
    if (deviation == 0.0f) {  // no noise, and none is read
      runs<0>(a, tile, nullptr, [=](int64_t at, int64_t count, const float* const*) {
        for (int64_t i = at; i < at + count; ++i) to_storage(c0 * to_float(x0[i]) + ct * to_float(x_t[i]), out[i]);
      });
    } else if (a.seeds) {
      const Key key = key_of(a.seeds[b], a.stream[0], a.step);
      runs<1>(a, tile, &key, [=](int64_t at, int64_t count, const float* const* n) {
        const float* noise = n[0];
        for (int64_t i = 0; i < count; ++i) {
          to_storage(c0 * to_float(x0[at + i]) + ct * to_float(x_t[at + i]) + deviation * noise[i], out[at + i]);
        }
      });
    } else {
      const T* noise = static_cast<const T*>(a.noise[0]) + b * elements;
      runs<0>(a, tile, nullptr, [=](int64_t at, int64_t count, const float* const*) {
        for (int64_t i = at; i < at + count; ++i) {
          to_storage(c0 * to_float(x0[i]) + ct * to_float(x_t[i]) + deviation * to_float(noise[i]), out[i]);
        }
      });
    }
  }
}

template <class T>
void pair(const Args& a, int64_t begin, int64_t end) {
  const int64_t tiles = tiles_of(a), elements = a.channels * a.pixels;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / tiles, tile = unit % tiles;
    const float* row = a.table + a.t[b];
    const float scale = row[0], deviation = row[a.steps], scale1 = row[2 * a.steps], deviation1 = row[3 * a.steps];
    const T* x0 = static_cast<const T*>(a.x0) + b * elements;
    T* out = static_cast<T*>(a.out[0]) + b * elements;
    T* out1 = static_cast<T*>(a.out[1]) + b * elements;
    if (a.seeds) {
      const Key keys[2] = {key_of(a.seeds[b], a.stream[0], a.step), key_of(a.seeds[b], a.stream[1], a.step)};
      runs<2>(a, tile, keys, [=](int64_t at, int64_t count, const float* const* n) {
        const float *noise = n[0], *noise1 = n[1];
        for (int64_t i = 0; i < count; ++i) {
          T x_t;
          to_storage(scale * to_float(x0[at + i]) + deviation * noise[i], x_t);
          to_storage(scale1 * to_float(x_t) + deviation1 * noise1[i], out1[at + i]);
          out[at + i] = x_t;
        }
      });
    } else {
      const T* noise = static_cast<const T*>(a.noise[0]) + b * elements;
      const T* noise1 = static_cast<const T*>(a.noise[1]) + b * elements;
      runs<0>(a, tile, nullptr, [=](int64_t at, int64_t count, const float* const*) {
        for (int64_t i = at; i < at + count; ++i) {
          T x_t;
          to_storage(scale * to_float(x0[i]) + deviation * to_float(noise[i]), x_t);
          to_storage(scale1 * to_float(x_t) + deviation1 * to_float(noise1[i]), out1[i]);
          out[i] = x_t;
        }
      });
    }
  }
}

// The last step (t = 0) in the dtype of x0, then clamped and rounded half away from zero.
template <class T>
uint8_t byte_of(float value) {
  T stored;
  to_storage(value, stored);
  const float scaled = (to_float(stored) + 1.0f) * 127.5f;
  const float clamped = scaled > 0.0f ? (scaled < 255.0f ? scaled : 255.0f) : 0.0f;  // NaN is 0
  return static_cast<uint8_t>(static_cast<int32_t>(clamped + 0.5f));
}

template <class T>
void final_uint8(const Args& a, int64_t begin, int64_t end) {
  const int64_t tiles = tiles_of(a), elements = a.channels * a.pixels;
  const float c0 = a.table[0], ct = a.table[a.steps];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / tiles, tile = unit % tiles;
    const T* x0 = static_cast<const T*>(a.x0) + b * elements;
    const T* x_t = static_cast<const T*>(a.x_t) + b * elements;
    uint8_t* out = static_cast<uint8_t*>(a.out[0]) + b * elements;
    runs<0>(a, tile, nullptr, [=, &a](int64_t at, int64_t count, const float* const*) {
      uint8_t bytes[kRun];
      for (int64_t i = 0; i < count; ++i) bytes[i] = byte_of<T>(c0 * to_float(x0[at + i]) + ct * to_float(x_t[at + i]));
      if (a.channels_last || a.channels == 1) {
        memcpy(out + at, bytes, static_cast<size_t>(count));
        return;
      }
      int64_t channel = at / a.pixels, pixel = at % a.pixels;
      for (int64_t i = 0; i < count; ++i) {
        out[pixel * a.channels + channel] = bytes[i];
        if (++pixel == a.pixels) pixel = 0, ++channel;
      }
    });
  }
}

void normal(const Args& a, int64_t begin, int64_t end) {
  const int64_t tiles = tiles_of(a);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / tiles, first = unit % tiles * kRun;
    const int64_t count = a.pixels - first < kRun ? a.pixels - first : kRun;
    draw(key_of(a.seeds[b], a.stream[0], a.step), first, count, static_cast<float*>(a.out[0]) + b * a.pixels + first);
  }
}

constexpr Kernels kernels() {
  return {{posterior<float>, posterior<Half>, posterior<Bfloat16>},
          {final_uint8<float>, final_uint8<Half>, final_uint8<Bfloat16>},
          {pair<float>, pair<Half>, pair<Bfloat16>},
          normal};
}

}  // namespace
}  // namespace ddgan
