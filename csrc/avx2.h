// Eight lanes in AVX2 registers, for philox.h. Included in files that are compiled for AVX2, FMA and F16C alone.
#pragma once

#include <immintrin.h>

#include "philox.h"

namespace ddgan {
namespace {

struct Avx2 {
  typedef float F __attribute__((vector_size(32)));
  typedef uint32_t U __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));

  static inline F number(I i) { return (F)_mm256_cvtepi32_ps((__m256i)i); }
  static inline F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
  static inline F all(float f) { return (F)_mm256_set1_ps(f); }
  static inline I signed_of(U u) { return (I)u; }
  static inline U unsigned_of(I i) { return (U)i; }
  static inline F pick(I mask, F yes, F no) { return (F)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask); }
  static inline I pick(I mask, I yes, I no) { return (I)pick(mask, (F)yes, (F)no); }
  static inline I bits(F f) { return (I)f; }
  static inline F value(I i) { return (F)i; }
  static inline F root(F f) { return (F)_mm256_sqrt_ps((__m256)f); }
};

// 32 numbers in the order of their elements from four registers, each of which has one number of eight counters.
inline void interleave(const Avx2::F (&n)[4], float* out) {
  const __m256d a = (__m256d)_mm256_unpacklo_ps((__m256)n[0], (__m256)n[1]);
  const __m256d b = (__m256d)_mm256_unpackhi_ps((__m256)n[0], (__m256)n[1]);
  const __m256d c = (__m256d)_mm256_unpacklo_ps((__m256)n[2], (__m256)n[3]);
  const __m256d d = (__m256d)_mm256_unpackhi_ps((__m256)n[2], (__m256)n[3]);
  const __m256 r0 = (__m256)_mm256_unpacklo_pd(a, c), r1 = (__m256)_mm256_unpackhi_pd(a, c);
  const __m256 r2 = (__m256)_mm256_unpacklo_pd(b, d), r3 = (__m256)_mm256_unpackhi_pd(b, d);
  _mm256_storeu_ps(out, _mm256_permute2f128_ps(r0, r1, 0x20));
  _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(r2, r3, 0x20));
  _mm256_storeu_ps(out + 16, _mm256_permute2f128_ps(r0, r1, 0x31));
  _mm256_storeu_ps(out + 24, _mm256_permute2f128_ps(r2, r3, 0x31));
}

// The round keys and the fixed words of the counters, one in each half of a register.
struct Rounds {
  __m256i low[10], high[10], stream, step;

  explicit Rounds(const Key& key)
      : stream(_mm256_set1_epi32(static_cast<int>(key.stream))), step(_mm256_set1_epi32(static_cast<int>(key.step))) {
    for (uint32_t i = 0; i < 10; ++i) {
      low[i] = _mm256_set1_epi32(static_cast<int>(key.low + i * kWeyl0));
      high[i] = _mm256_set1_epi32(static_cast<int>(key.high + i * kWeyl1));
    }
  }
};

// Eight counters in two registers, each in the lower half of 64 bits, where the multiplication wants it; the upper halves
// are of no account. The two take turns, so that one works while the other waits for its product.
inline void philox8(const Rounds& rounds, const __m256i (&block)[2], __m256i (&c)[4][2]) {
  const __m256i factor0 = _mm256_set1_epi32(static_cast<int>(kFactor0));
  const __m256i factor1 = _mm256_set1_epi32(static_cast<int>(kFactor1));
  for (int i = 0; i < 2; ++i) {
    c[0][i] = block[i], c[1][i] = _mm256_setzero_si256(), c[2][i] = rounds.stream, c[3][i] = rounds.step;
  }
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i p0 = _mm256_mul_epu32(c[0][i], factor0), p1 = _mm256_mul_epu32(c[2][i], factor1);
      c[0][i] = _mm256_xor_si256(_mm256_xor_si256(c[1][i], rounds.low[round]), _mm256_srli_epi64(p1, 32));
      c[1][i] = p1;
      c[2][i] = _mm256_xor_si256(_mm256_xor_si256(c[3][i], rounds.high[round]), _mm256_srli_epi64(p0, 32));
      c[3][i] = p0;
    }
  }
}

// The normal numbers of 8 * groups counters from `block` on.
void normals(const Key& key, uint32_t block, int64_t groups, float* out) {
  const Rounds rounds(key);
  __m256i even =
      _mm256_add_epi32(_mm256_setr_epi32(0, 0, 2, 0, 4, 0, 6, 0), _mm256_set1_epi32(static_cast<int>(block)));
  for (int64_t group = 0; group < groups; ++group) {
    const __m256i block[2] = {even, _mm256_add_epi32(even, _mm256_set1_epi32(1))};
    __m256i c[4][2];
    philox8(rounds, block, c);
    Avx2::U words[4];
    for (int i = 0; i < 4; ++i) words[i] = (Avx2::U)_mm256_blend_epi32(c[i][0], _mm256_slli_epi64(c[i][1], 32), 0xAA);
    Avx2::F n[4];
    box_muller<Avx2>(words[0], words[1], n[0], n[1]);
    box_muller<Avx2>(words[2], words[3], n[2], n[3]);
    interleave(n, out + 32 * group);
    even = _mm256_add_epi32(even, _mm256_set1_epi32(8));
  }
}

}  // namespace
}  // namespace ddgan
