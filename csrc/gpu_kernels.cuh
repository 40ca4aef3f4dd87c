// The kernels of posterior.cu. The noise of an element is that of philox.h, made in registers by the thread that uses it.
//
// Three walks over memory: kFlat, contiguous images in 16-byte accesses; kRgb, channels_last images of three channels,
// some pixels with all their channels in three 16-byte accesses; kAny, four elements that share a counter one by one.
// blockIdx.y and .x stride over images and over their chunks; indices have 64 bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "philox.h"
#include "posterior.h"

namespace ddgan {
namespace {

constexpr int kThreads = 256;
enum class Walk { kFlat, kRgb, kAny };
enum class Op { kPosterior, kPair };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void to_storage(float x, float& out) { out = x; }
__device__ __forceinline__ void to_storage(float x, __half& out) { out = __float2half_rn(x); }
__device__ __forceinline__ void to_storage(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }

// Elements of one chunk, in the order of memory.
template <class T, Walk kWalk>
struct Chunk {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  static constexpr int kSize = kWalk == Walk::kFlat ? kVector : kWalk == Walk::kRgb ? 3 * kVector : 4;
  static constexpr int kCounters = kSize / 4;
  alignas(16) T values[kSize];

  // Where the chunk lies in its image: its first element, or for kAny each of four, -1 behind the end.
  struct Place {
    int64_t at[kWalk == Walk::kAny ? 4 : 1];
  };
  static __device__ __forceinline__ Place place(int64_t chunk, int64_t pixels, int64_t channels, bool last) {
    Place found;
    if constexpr (kWalk == Walk::kAny) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t e = 4 * chunk + i;
        found.at[i] = e >= pixels * channels ? -1 : last ? e % pixels * channels + e / pixels : e;
      }
    } else {
      found.at[0] = chunk * kSize;
    }
    return found;
  }
  __device__ __forceinline__ void load(const T* image, const Place& place) {
    if constexpr (kWalk == Walk::kAny) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        if (place.at[i] >= 0) values[i] = image[place.at[i]];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kSize / kVector; ++i) {
        reinterpret_cast<uint4*>(values)[i] = reinterpret_cast<const uint4*>(image + place.at[0])[i];
      }
    }
  }
  __device__ __forceinline__ void store(T* image, const Place& place) const {
    if constexpr (kWalk == Walk::kAny) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        if (place.at[i] >= 0) image[place.at[i]] = values[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kSize / kVector; ++i) {
        reinterpret_cast<uint4*>(image + place.at[0])[i] = reinterpret_cast<const uint4*>(values)[i];
      }
    }
  }
};

// The noise of a chunk, in the order of its elements.
template <class T, Walk kWalk>
__device__ __forceinline__ void draw(const Key& key, int64_t chunk, int64_t pixels,
                                     float (&noise)[Chunk<T, kWalk>::kSize]) {
  using C = Chunk<T, kWalk>;
#pragma unroll
  for (int j = 0; j < C::kCounters; ++j) {
    float n[4];
    if constexpr (kWalk == Walk::kRgb) {
      const int per_channel = C::kVector / 4, c = j / per_channel, first = 4 * (j % per_channel);
      normals4<Scalar>(key, static_cast<uint32_t>((c * pixels + chunk * C::kVector + first) / 4), n);
#pragma unroll
      for (int i = 0; i < 4; ++i) noise[3 * (first + i) + c] = n[i];
    } else {
      normals4<Scalar>(key, static_cast<uint32_t>(chunk * C::kCounters + j), n);
#pragma unroll
      for (int i = 0; i < 4; ++i) noise[4 * j + i] = n[i];
    }
  }
}

// Coefficients of an image; NaN for a t outside the table, which only the GPU has seen.
template <int kRows>
__device__ __forceinline__ void coefficients(const Args& a, int64_t b, float (&row)[kRows]) {
  const int64_t t = a.t[b];
  const bool inside = t >= 0 && t < a.steps;
#pragma unroll
  for (int i = 0; i < kRows; ++i) row[i] = inside ? a.table[i * a.steps + t] : __int_as_float(0x7FC00000);
}

template <class T, Op kOp, Walk kWalk, bool kSeeded>
__global__ void __launch_bounds__(kThreads, 2) step_kernel(const Args a, const int64_t chunks) {
  using C = Chunk<T, kWalk>;
  constexpr int kNoises = kOp == Op::kPair ? 2 : 1;
  const int64_t elements = a.channels * a.pixels;
  for (int64_t b = blockIdx.y; b < a.batch; b += gridDim.y) {
    float row[kOp == Op::kPair ? 4 : 3];
    coefficients(a, b, row);
    const bool noisy = kOp == Op::kPair || row[2] != 0.0f, mixes = kOp == Op::kPosterior && row[1] != 0.0f;
    for (int64_t chunk = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; chunk < chunks;
         chunk += static_cast<int64_t>(gridDim.x) * kThreads) {
      const typename C::Place place = C::place(chunk, a.pixels, a.channels, a.channels_last);
      C x0, x_t, out[kNoises];
      x0.load(static_cast<const T*>(a.x0) + b * elements, place);
      if (mixes) x_t.load(static_cast<const T*>(a.x_t) + b * elements, place);
      float noise[kNoises][C::kSize] = {};
      if (noisy) {
#pragma unroll
        for (int k = 0; k < kNoises; ++k) {
          if constexpr (kSeeded) {
            draw<T, kWalk>(key_of(a.seeds[b], a.stream[k], a.step), chunk, a.pixels, noise[k]);
          } else {
            C given;
            given.load(static_cast<const T*>(a.noise[k]) + b * elements, place);
#pragma unroll
            for (int i = 0; i < C::kSize; ++i) noise[k][i] = to_float(given.values[i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < C::kSize; ++i) {
        const float first = row[0] * to_float(x0.values[i]);
        if constexpr (kOp == Op::kPair) {
          to_storage(first + row[1] * noise[0][i], out[0].values[i]);
          to_storage(row[2] * to_float(out[0].values[i]) + row[3] * noise[1][i], out[1].values[i]);
        } else {
          const float mean = mixes ? first + row[1] * to_float(x_t.values[i]) : first;
          to_storage(noisy ? mean + row[2] * noise[0][i] : mean, out[0].values[i]);
        }
      }
#pragma unroll
      for (int k = 0; k < kNoises; ++k) {
        out[k].store(static_cast<T*>(a.out[k]) + b * elements, place);
      }
    }
  }
}

// The last step (t = 0) in the dtype of x0, then clamped and rounded half away from zero; NaN is 0.
template <class T>
__device__ __forceinline__ uint8_t byte_of(float value) {
  T stored;
  to_storage(value, stored);
  const float scaled = (to_float(stored) + 1.0f) * 127.5f;
  const float clamped = scaled > 0.0f ? (scaled < 255.0f ? scaled : 255.0f) : 0.0f;
  return static_cast<uint8_t>(static_cast<int>(clamped + 0.5f));
}

// kAny: a thread has four logical elements. kFlat and kRgb: 16 / sizeof(T) pixels with three channels, of contiguous or
// channels_last images, whose bytes are written together.
template <class T, Walk kWalk>
__global__ void __launch_bounds__(kThreads) final_kernel(const Args a, const int64_t chunks) {
  using C = Chunk<T, kWalk == Walk::kAny ? Walk::kAny : Walk::kRgb>;
  const int64_t elements = a.channels * a.pixels;
  const float c0 = a.table[0], ct = a.table[a.steps];
  for (int64_t b = blockIdx.y; b < a.batch; b += gridDim.y) {
    const T* images[2] = {static_cast<const T*>(a.x0) + b * elements, static_cast<const T*>(a.x_t) + b * elements};
    uint8_t* out = static_cast<uint8_t*>(a.out[0]) + b * elements;
    for (int64_t chunk = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; chunk < chunks;
         chunk += static_cast<int64_t>(gridDim.x) * kThreads) {
      C x[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        if (k == 1 && ct == 0.0f) break;
        if constexpr (kWalk == Walk::kFlat) {
          Chunk<T, Walk::kFlat> plane;
#pragma unroll
          for (int c = 0; c < 3; ++c) {
            plane.load(images[k] + c * a.pixels, {{chunk * C::kVector}});
#pragma unroll
            for (int i = 0; i < C::kVector; ++i) x[k].values[3 * i + c] = plane.values[i];
          }
        } else {
          x[k].load(images[k], C::place(chunk, a.pixels, a.channels, a.channels_last));
        }
      }
      alignas(8) uint8_t bytes[C::kSize];
#pragma unroll
      for (int i = 0; i < C::kSize; ++i) {
        const float first = c0 * to_float(x[0].values[i]);
        bytes[i] = byte_of<T>(ct == 0.0f ? first : first + ct * to_float(x[1].values[i]));
      }
      if constexpr (kWalk == Walk::kAny) {
        const typename C::Place place = C::place(chunk, a.pixels, a.channels, true);
#pragma unroll
        for (int i = 0; i < C::kSize; ++i) {
          if (place.at[i] >= 0) out[place.at[i]] = bytes[i];
        }
      } else {
#pragma unroll
        for (int i = 0; i < C::kSize / 4; ++i) {
          reinterpret_cast<uint32_t*>(out + chunk * C::kSize)[i] = reinterpret_cast<const uint32_t*>(bytes)[i];
        }
      }
    }
  }
}

// Four numbers of one counter; kWords: the integers.
template <bool kWords>
__global__ void __launch_bounds__(kThreads) philox_kernel(const Args a, const int64_t chunks) {
  for (int64_t b = blockIdx.y; b < a.batch; b += gridDim.y) {
    const Key key = key_of(a.seeds[b], a.stream[0], a.step);
    for (int64_t chunk = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; chunk < chunks;
         chunk += static_cast<int64_t>(gridDim.x) * kThreads) {
      uint32_t words[4];
      float n[4];
      if constexpr (kWords) words4<Scalar>(key, static_cast<uint32_t>(chunk), words);
      if constexpr (!kWords) normals4<Scalar>(key, static_cast<uint32_t>(chunk), n);
      const int64_t first = b * a.pixels + 4 * chunk;
      if constexpr (!kWords) {
        if (a.pixels % 4 == 0) {
          *reinterpret_cast<float4*>(static_cast<float*>(a.out[0]) + first) = make_float4(n[0], n[1], n[2], n[3]);
          continue;
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (4 * chunk + i >= a.pixels) break;
        if constexpr (kWords) static_cast<int64_t*>(a.out[0])[first + i] = words[i];
        if constexpr (!kWords) static_cast<float*>(a.out[0])[first + i] = n[i];
      }
    }
  }
}

}  // namespace
}  // namespace ddgan
