// What the CPU and the CUDA part of the ops share: the arguments of a call, their checks and their way off the stack.
#pragma once

#include <cstdint>
#include <string>

#include "torch_abi.h"

namespace ddgan {

constexpr int64_t kMostElements = 1LL << 33;  // of one image: counters have 32 bits and serve four elements each

enum class Storage { kFloat, kHalf, kBfloat16 };

// One call of any of the ops; pointers that an op does not have are null.
struct Args {
  const void* x0 = nullptr;
  const void* x_t = nullptr;
  const void* noise[2] = {nullptr, nullptr};
  void* out[2] = {nullptr, nullptr};
  const int64_t* t = nullptr;       // [batch]
  const float* table = nullptr;     // [rows, steps]
  const int64_t* seeds = nullptr;   // [batch], where the noise is drawn
  int64_t batch = 0, channels = 1, pixels = 0, steps = 0;  // an image has channels * pixels elements
  uint32_t stream[2] = {0, 0}, step = 0;
  bool channels_last = false;
  Storage storage = Storage::kFloat;
};

namespace {

inline std::string text(const Tensor& x) {
  std::string out = "[";
  for (int64_t i = 0; i < x.dim(); ++i) out += (i ? ", " : "") + std::to_string(x.sizes()[i]);
  return out + "]";
}

inline bool same_sizes(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t i = 0; i < a.dim(); ++i)
    if (a.sizes()[i] != b.sizes()[i]) return false;
  return true;
}

inline bool contiguous(const Tensor& x) {
  int64_t stride = 1;
  for (int64_t i = x.dim() - 1; i >= 0; --i) {
    if (x.sizes()[i] != 1 && x.strides()[i] != stride) return false;
    stride *= x.sizes()[i];
  }
  return true;
}

inline bool channels_last(const Tensor& x) {
  if (x.dim() != 4) return false;
  int64_t stride = 1;
  for (int64_t i : {1, 3, 2, 0}) {
    if (x.sizes()[i] != 1 && x.strides()[i] != stride) return false;
    stride *= x.sizes()[i];
  }
  return true;
}

inline void require(bool right, const char* op, const std::string& what) {
  if (!right) fail(std::string(op) + ": " + what);
}

inline void require_device(const char* op, const char* name, const Tensor& x, const Tensor& like) {
  require(x.device_type() == like.device_type() && x.device_index() == like.device_index(), op,
          std::string(name) + " is on another device than the first argument");
}

// A vector of int64, one entry per sample.
inline const int64_t* per_sample(const char* op, const char* name, const Tensor& v, const Tensor& like, int64_t batch) {
  require_device(op, name, v, like);
  require(v.dtype() == aoti_torch_dtype_int64() && v.dim() == 1 && v.sizes()[0] == batch && contiguous(v), op,
          std::string(name) + " has shape " + text(v) + "; it must be int64 [" + std::to_string(batch) + "], contiguous");
  return v.data<int64_t>();
}

// x0 gives shape, layout and dtype of the call.
inline void take_images(const char* op, const Tensor& x0, Args& args) {
  const int32_t dtype = x0.dtype();
  const bool half = dtype == aoti_torch_dtype_float16(), bfloat16 = dtype == aoti_torch_dtype_bfloat16();
  require(half || bfloat16 || dtype == aoti_torch_dtype_float32(), op, "x0 must be float32, bfloat16 or float16");
  require(x0.dim() >= 1 && x0.numel() > 0, op, "x0 has shape " + text(x0) + "; no size may be 0");
  args.storage = half ? Storage::kHalf : bfloat16 ? Storage::kBfloat16 : Storage::kFloat;
  args.batch = x0.sizes()[0];
  args.channels_last = !contiguous(x0);
  require(!args.channels_last || channels_last(x0), op, "x0 is neither contiguous nor channels_last");
  args.channels = x0.dim() == 4 ? x0.sizes()[1] : 1;
  args.pixels = x0.numel() / args.batch / args.channels;
  require(args.channels * args.pixels <= kMostElements, op, "an image of x0 has more than 2^33 elements");
  args.x0 = x0.data<void>();
}

inline const void* like_images(const char* op, const char* name, const Tensor& x, const Tensor& x0, const Args& args) {
  require_device(op, name, x, x0);
  require(same_sizes(x, x0) && x.dtype() == x0.dtype(), op,
          std::string(name) + " has shape " + text(x) + "; it must be " + text(x0) + " in the dtype of x0");
  require(args.channels_last ? channels_last(x) : contiguous(x), op, std::string(name) + " has another layout than x0");
  return x.data<void>();
}

inline void take_table(const char* op, const Tensor& table, int64_t rows, const Tensor& x0, Args& args) {
  require_device(op, "table", table, x0);
  require(table.dtype() == aoti_torch_dtype_float32() && table.dim() == 2 && table.sizes()[0] == rows &&
              table.sizes()[1] > 0 && contiguous(table),
          op, "table has shape " + text(table) + "; it must be float32 [" + std::to_string(rows) + ", T], contiguous");
  args.table = table.data<float>();
  args.steps = table.sizes()[1];
}

inline uint32_t word(const char* op, const char* name, int64_t value) {
  require(value >= 0 && value <= 0xFFFFFFFFLL, op,
          std::string(name) + " is " + std::to_string(value) + "; it must be 0 to 2^32 - 1");
  return static_cast<uint32_t>(value);
}

// The boxed kernels. A `Launch` has static functions posterior, final_uint8, pair, normal and words of Args, and
// check_t, all of which run where the tensors are.

template <class Launch>
void posterior_step(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = "posterior_step";
  Tensor x0 = tensor(stack[0]), x_t = tensor(stack[1]), t = tensor(stack[2]), table = tensor(stack[3]);
  Tensor noise = tensor(stack[4]);
  Args args;
  take_images(op, x0, args);
  args.x_t = like_images(op, "x_t", x_t, x0, args);
  args.noise[0] = like_images(op, "noise", noise, x0, args);
  args.t = per_sample(op, "t", t, x0, args.batch);
  take_table(op, table, 3, x0, args);
  Launch::check_t(op, args);
  Tensor out = Tensor::empty_like(x0);
  args.out[0] = out.data<void>();
  Launch::posterior(args, x0.device_index());
  stack[0] = out.release();
}

template <class Launch>
void posterior_step_seeded(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = "posterior_step_seeded";
  Tensor x0 = tensor(stack[0]), x_t = tensor(stack[1]), t = tensor(stack[2]), table = tensor(stack[3]);
  Tensor seeds = tensor(stack[4]);
  Args args;
  args.stream[0] = word(op, "stream", integer(stack[5]));
  args.step = word(op, "step", integer(stack[6]));
  take_images(op, x0, args);
  args.x_t = like_images(op, "x_t", x_t, x0, args);
  args.seeds = per_sample(op, "seeds", seeds, x0, args.batch);
  args.t = per_sample(op, "t", t, x0, args.batch);
  take_table(op, table, 3, x0, args);
  Launch::check_t(op, args);
  Tensor out = Tensor::empty_like(x0);
  args.out[0] = out.data<void>();
  Launch::posterior(args, x0.device_index());
  stack[0] = out.release();
}

template <class Launch>
void posterior_final_uint8(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = "posterior_final_uint8";
  Tensor x0 = tensor(stack[0]), x_t = tensor(stack[1]), table = tensor(stack[2]);
  Args args;
  require(x0.dim() == 4, op, "x0 has shape " + text(x0) + "; it must be [B, C, H, W]");
  take_images(op, x0, args);
  args.x_t = like_images(op, "x_t", x_t, x0, args);
  take_table(op, table, 3, x0, args);
  const int64_t* n = x0.sizes();
  const int64_t sizes[4] = {n[0], n[2], n[3], n[1]}, strides[4] = {n[1] * n[2] * n[3], n[1] * n[3], n[1], 1};
  Tensor out = Tensor::empty(4, sizes, strides, aoti_torch_dtype_uint8(), x0);
  args.out[0] = out.data<void>();
  Launch::final_uint8(args, x0.device_index());
  stack[0] = out.release();
}

// q_sample_pair with the rest of its arguments in args: fills the two outputs.
template <class Launch>
void finish_pair(const char* op, StableIValue* stack, const Tensor& x0, const Tensor& t, const Tensor& table, Args& args) {
  args.t = per_sample(op, "t", t, x0, args.batch);
  take_table(op, table, 4, x0, args);
  Launch::check_t(op, args);
  Tensor x_t = Tensor::empty_like(x0), x_tp1 = Tensor::empty_like(x0);
  args.out[0] = x_t.data<void>();
  args.out[1] = x_tp1.data<void>();
  Launch::pair(args, x0.device_index());
  stack[0] = x_t.release();
  stack[1] = x_tp1.release();
}

template <class Launch>
void q_sample_pair(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = "q_sample_pair";
  Tensor x0 = tensor(stack[0]), t = tensor(stack[1]), table = tensor(stack[2]);
  Tensor noise_t = tensor(stack[3]), noise_tp1 = tensor(stack[4]);
  Args args;
  take_images(op, x0, args);
  args.noise[0] = like_images(op, "noise_t", noise_t, x0, args);
  args.noise[1] = like_images(op, "noise_tp1", noise_tp1, x0, args);
  finish_pair<Launch>(op, stack, x0, t, table, args);
}

template <class Launch>
void q_sample_pair_seeded(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = "q_sample_pair_seeded";
  Tensor x0 = tensor(stack[0]), t = tensor(stack[1]), table = tensor(stack[2]), seeds = tensor(stack[3]);
  Args args;
  args.stream[0] = word(op, "stream_t", integer(stack[4]));
  args.stream[1] = word(op, "stream_tp1", integer(stack[5]));
  args.step = word(op, "step", integer(stack[6]));
  take_images(op, x0, args);
  args.seeds = per_sample(op, "seeds", seeds, x0, args.batch);
  finish_pair<Launch>(op, stack, x0, t, table, args);
}

// philox_normal and philox_words: [B, count] from seeds, stream, step and count.
template <void (*launch)(const Args&, int32_t)>
void philox(StableIValue* stack, const char* op, int32_t dtype) {
  Tensor seeds = tensor(stack[0]);
  Args args;
  args.stream[0] = word(op, "stream", integer(stack[1]));
  args.step = word(op, "step", integer(stack[2]));
  args.pixels = integer(stack[3]);
  require(args.pixels >= 1 && args.pixels <= kMostElements, op,
          "count is " + std::to_string(args.pixels) + "; it must be 1 to 2^33");
  require(seeds.dim() == 1 && seeds.numel() > 0, op, "seeds has shape " + text(seeds) + "; it must be [B]");
  args.batch = seeds.numel();
  args.seeds = per_sample(op, "seeds", seeds, seeds, args.batch);
  const int64_t sizes[2] = {args.batch, args.pixels}, strides[2] = {args.pixels, 1};
  Tensor out = Tensor::empty(2, sizes, strides, dtype, seeds);
  args.out[0] = out.data<void>();
  launch(args, seeds.device_index());
  stack[0] = out.release();
}

template <class Launch>
void philox_normal(StableIValue* stack, uint64_t, uint64_t) {
  philox<Launch::normal>(stack, "philox_normal", aoti_torch_dtype_float32());
}

template <class Launch>
void philox_words(StableIValue* stack, uint64_t, uint64_t) {
  philox<Launch::words>(stack, "philox_words", aoti_torch_dtype_int64());
}

template <class Launch>
void implement_all(Library& library) {
  library.implement("posterior_step", posterior_step<Launch>);
  library.implement("posterior_step_seeded", posterior_step_seeded<Launch>);
  library.implement("posterior_final_uint8", posterior_final_uint8<Launch>);
  library.implement("q_sample_pair", q_sample_pair<Launch>);
  library.implement("q_sample_pair_seeded", q_sample_pair_seeded<Launch>);
  library.implement("philox_normal", philox_normal<Launch>);
  library.implement("philox_words", philox_words<Launch>);
}

}  // namespace
}  // namespace ddgan
