// Normal numbers that a seed names: Philox4x32-10 (Salmon et al., SC 2011) and Box-Muller, for one lane or several.
//
// The layout is that of ddgan_fast/noise.py: element e of an image is word e % 4 of counter (e / 4, 0, stream, step)
// under the key (low, high half of the seed); Box-Muller on the word pairs (0, 1) and (2, 3), cosine first.
// `L` says what a lane is: Scalar below, here and on a GPU, or Avx2 in avx2.h. Every fused multiply-add is written out and
// the compiler is told to fuse nothing else, so that all of them give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define DDGAN_HD __host__ __device__ __forceinline__
#else
#include <cmath>
#define DDGAN_HD inline
#endif

namespace ddgan {
namespace {  // every object file has its own: they are compiled for different processors

struct Scalar {
  using F = float;
  using U = uint32_t;
  using I = int32_t;

  static DDGAN_HD void multiply(U a, uint32_t b, U& high, U& low) {
    const uint64_t product = static_cast<uint64_t>(a) * b;
    high = static_cast<U>(product >> 32);
    low = static_cast<U>(product);
  }
  static DDGAN_HD F number(I i) { return static_cast<F>(i); }
  static DDGAN_HD F fma(F a, F b, F c) { return fmaf(a, b, c); }
  static DDGAN_HD F all(float f) { return f; }
  static DDGAN_HD I signed_of(U u) { return static_cast<I>(u); }
  static DDGAN_HD U unsigned_of(I i) { return static_cast<U>(i); }
  template <typename T>
  static DDGAN_HD T pick(bool condition, T yes, T no) {
    return condition ? yes : no;
  }
#ifdef __CUDA_ARCH__
  static DDGAN_HD I bits(F f) { return __float_as_int(f); }
  static DDGAN_HD F value(I i) { return __int_as_float(i); }
  static DDGAN_HD F root(F f) { return __fsqrt_rn(f); }
#else
  static DDGAN_HD I bits(F f) {
    I i;
    memcpy(&i, &f, sizeof i);
    return i;
  }
  static DDGAN_HD F value(I i) {
    F f;
    memcpy(&f, &i, sizeof f);
    return f;
  }
  static DDGAN_HD F root(F f) { return sqrtf(f); }
#endif
};

// Which numbers: those of one image (low, high: its seed), in one stream and step.
struct Key {
  uint32_t low, high, stream, step;
};

DDGAN_HD Key key_of(int64_t seed, uint32_t stream, uint32_t step) {
  const uint64_t bits = static_cast<uint64_t>(seed);
  return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32), stream, step};
}

constexpr uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

// Ten rounds, in place.
template <class L>
DDGAN_HD void philox4x32(typename L::U (&c)[4], uint32_t k0, uint32_t k1) {
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    typename L::U high0, low0, high1, low1;
    L::multiply(c[0], kFactor0, high0, low0);
    L::multiply(c[2], kFactor1, high1, low1);
    c[0] = high1 ^ c[1] ^ k0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ k1;
    c[3] = low0;
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
}

// a + r * (b + r * (...)): coefficients from the highest power down.
template <class L>
DDGAN_HD typename L::F horner(typename L::F, typename L::F sum) {
  return sum;
}
template <class L, class... Rest>
DDGAN_HD typename L::F horner(typename L::F r, typename L::F sum, float next, Rest... rest) {
  return horner<L>(r, L::fma(sum, r, L::all(next)), rest...);
}

// sqrt(-2 log u), u = ((word >> 8) + 0.5) * 2^-24. From 1/2 on u needs 25 bits, and 1 - u, which needs 24, is used.
// log u = e log 2 + log(1 + r) with r in [sqrt(1/2) - 1, sqrt(2) - 1], and every step up to r is exact. The polynomial
// is the Chebyshev fit of (log(1 + r) - r + r^2 / 2) / r^3, relative error 4e-9.
template <class L>
DDGAN_HD typename L::F radius(typename L::U word) {
  using F = typename L::F;
  using I = typename L::I;
  const I k = L::signed_of(word >> 8);
  const auto below = k < (1 << 23);
  const F h = L::number(L::pick(below, k, 0xFFFFFF - k)) + 0.5f;  // u or 1 - u, times 2^24
  const I exponent = (L::bits(h) - 0x3F3504F3) >> 23;             // 0x3F3504F3: sqrt(1/2)
  const F r_below = L::value(L::bits(h) - exponent * (1 << 23)) - 1.0f;
  const F rest = h * 0x1p-24f;
  const auto half = rest > 0.29289323f;
  const F r = L::pick(below, r_below, L::pick(half, 1.0f - (rest + rest), -rest));
  const F e = L::number(L::pick(below, exponent - 24, L::pick(half, I{} - 1, I{})));
  const F p = horner<L>(r, L::all(0.0714975389f), -0.115712007f, 0.116615111f, -0.124110507f, 0.142499365f,
                        -0.166684802f, 0.200007075f, -0.24999989f, 0.333333312f);
  const F square = r * r;
  const F fraction = L::fma(square, L::fma(p, r, L::all(-0.5f)), r);
  return L::root(-2.0f * L::fma(e, L::all(0.693147182f), fraction));
}

// radius(first) * (cos, sin) of 2 pi u of the second word; the quarter turns are taken off in whole numbers.
template <class L>
DDGAN_HD void box_muller(typename L::U first, typename L::U second, typename L::F& cosine, typename L::F& sine) {
  using F = typename L::F;
  using I = typename L::I;
  const F length = radius<L>(first);
  const I k = L::signed_of(second >> 8);
  const I quarter = (k + (1 << 21)) >> 22;
  const F x = (L::number(k - quarter * (1 << 22)) + 0.5f) * 3.74507035e-7f;  // 2 pi * 2^-24; |x| <= pi / 4
  const F z = x * x;
  const F s = L::fma(x * z, horner<L>(z, L::all(-0.000195879499f), 0.00833274863f, -0.166666647f), x);
  const F c = horner<L>(z, L::all(2.45479913e-5f), -0.00138883033f, 0.0416666647f, -0.5f, 1.0f);
  const auto odd = (quarter & 1) != 0;
  const F along = L::pick(odd, s, c) * length, across = L::pick(odd, c, s) * length;
  cosine = L::value(L::bits(along) ^ L::signed_of(L::unsigned_of((quarter + 1) & 2) << 30));
  sine = L::value(L::bits(across) ^ L::signed_of(L::unsigned_of(quarter & 2) << 30));
}

// The four words, or normal numbers, of counter `block` (element / 4).
template <class L>
DDGAN_HD void words4(const Key& key, typename L::U block, typename L::U (&out)[4]) {
  out[0] = block;
  out[1] = typename L::U{};
  out[2] = typename L::U{} + key.stream;
  out[3] = typename L::U{} + key.step;
  philox4x32<L>(out, key.low, key.high);
}

template <class L>
DDGAN_HD void normals4(const Key& key, typename L::U block, typename L::F (&out)[4]) {
  typename L::U words[4];
  words4<L>(key, block, words);
  box_muller<L>(words[0], words[1], out[0], out[1]);
  box_muller<L>(words[2], words[3], out[2], out[3]);
}

}  // namespace
}  // namespace ddgan
