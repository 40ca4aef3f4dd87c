// Checks and results of the ops that take float32 images in channels_last, as unet.cpp and winograd.cpp need them.
#pragma once

#include <string>

#include "posterior.h"

namespace ddgan {
namespace {

inline void require_floats(const char* op, const char* name, const Tensor& x) {
  require(x.dtype() == aoti_torch_dtype_float32(), op, std::string(name) + " must be float32");
}

inline void require_images(const char* op, const char* name, const Tensor& x) {
  require_floats(op, name, x);
  require(channels_last(x) && x.numel() > 0, op,
          std::string(name) + " has shape " + text(x) + "; it must be channels_last [B, C, H, W], no size 0");
}

inline Tensor empty_images(const Tensor& like, int64_t channels, int64_t height, int64_t width) {
  const int64_t sizes[4] = {like.sizes()[0], channels, height, width};
  const int64_t strides[4] = {channels * height * width, 1, width * channels, channels};
  return Tensor::empty(4, sizes, strides, like.dtype(), like);
}

}  // namespace
}  // namespace ddgan
