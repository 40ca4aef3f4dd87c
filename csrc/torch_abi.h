// The part of LibTorch's stable C ABI that the ops call, declared here so that building needs no torch at all.
//
// The declarations are those of torch/csrc/stable/c/shim.h and torch/csrc/inductor/aoti_torch/c/shim.h of torch 2.11;
// tests/csrc/test_build.py compiles this file beside torch's own headers, so that a drift is a compile error.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#pragma GCC visibility push(default)
extern "C" {
struct AtenTensorOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
class TorchLibraryOpaque;
using TorchLibraryHandle = TorchLibraryOpaque*;
struct DeviceGuardOpaque;
using DeviceGuardHandle = DeviceGuardOpaque*;
using AOTITorchError = int32_t;
using StableIValue = uint64_t;
typedef void (*ParallelFunc)(int64_t begin, int64_t end, void* ctx);

int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_uint8();
int32_t aoti_torch_dtype_int64();

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** ret_data_ptr);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* ret_dim);
AOTITorchError aoti_torch_get_numel(AtenTensorHandle tensor, int64_t* ret_numel);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** ret_sizes);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** ret_strides);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* ret_dtype);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* ret_device_type);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* ret_device_index);
AOTITorchError aoti_torch_empty_strided(int64_t ndim, const int64_t* sizes_ptr, const int64_t* strides_ptr,
                                        int32_t dtype, int32_t device_type, int32_t device_index,
                                        AtenTensorHandle* ret_new_tensor);
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size, ParallelFunc func, void* ctx);
AOTITorchError torch_get_num_threads(uint32_t* out_num_threads);
AOTITorchError aoti_torch_create_device_guard(int32_t device_index, DeviceGuardHandle* ret_guard);
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle guard);

AOTITorchError aoti_torch_library_init_def(const char* ns, const char* file, uint32_t line,
                                           TorchLibraryHandle* ret_new_torch_lib);
AOTITorchError aoti_torch_library_init_impl(const char* ns, const char* k, const char* file, uint32_t line,
                                            TorchLibraryHandle* ret_new_torch_lib);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle self, const char* schema);
AOTITorchError torch_library_impl(TorchLibraryHandle self, const char* name,
                                  void (*fn)(StableIValue*, uint64_t, uint64_t), uint64_t extension_build_version);
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle tlh);
}
#pragma GCC visibility pop

namespace ddgan {

constexpr uint64_t kTorchVersion = (2ULL << 56) | (11ULL << 48);  // the oldest torch whose ABI is called here

// An exception thrown out of a boxed kernel passes through the dispatcher and is a RuntimeError in Python.
[[noreturn]] inline void fail(const std::string& message) { throw std::runtime_error("ddgan_cpp::" + message); }

inline void call(AOTITorchError error, const char* what) {
  if (error != 0) fail(std::string(what) + " failed inside torch");
}
#define DDGAN_TORCH(function, ...) ::ddgan::call(function(__VA_ARGS__), #function)

// Owns one reference to a tensor.
class Tensor {
 public:
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() {
    if (handle_) aoti_torch_delete_tensor_object(handle_);
  }

  static Tensor empty(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype, const Tensor& like) {
    AtenTensorHandle made;
    if (aoti_torch_empty_strided(dim, sizes, strides, dtype, like.device_type(), like.device_index(), &made) != 0) {
      fail("can't allocate memory for a result");
    }
    return Tensor(made);
  }
  static Tensor empty_like(const Tensor& x) { return empty(x.dim(), x.sizes(), x.strides(), x.dtype(), x); }

  int64_t dim() const { return get<int64_t>(aoti_torch_get_dim, "aoti_torch_get_dim"); }
  int64_t numel() const { return get<int64_t>(aoti_torch_get_numel, "aoti_torch_get_numel"); }
  const int64_t* sizes() const { return get<int64_t*>(aoti_torch_get_sizes, "aoti_torch_get_sizes"); }
  const int64_t* strides() const { return get<int64_t*>(aoti_torch_get_strides, "aoti_torch_get_strides"); }
  int32_t dtype() const { return get<int32_t>(aoti_torch_get_dtype, "aoti_torch_get_dtype"); }
  int32_t device_type() const { return get<int32_t>(aoti_torch_get_device_type, "aoti_torch_get_device_type"); }
  int32_t device_index() const { return get<int32_t>(aoti_torch_get_device_index, "aoti_torch_get_device_index"); }
  template <typename T>
  T* data() const {
    return static_cast<T*>(get<void*>(aoti_torch_get_data_ptr, "aoti_torch_get_data_ptr"));
  }
  StableIValue release() { return reinterpret_cast<StableIValue>(std::exchange(handle_, nullptr)); }

 private:
  template <typename T>
  T get(AOTITorchError (*getter)(AtenTensorHandle, T*), const char* what) const {
    T value{};
    call(getter(handle_, &value), what);
    return value;
  }
  AtenTensorHandle handle_;
};

inline Tensor tensor(StableIValue value) { return Tensor(reinterpret_cast<AtenTensorHandle>(value)); }
inline int64_t integer(StableIValue value) { return static_cast<int64_t>(value); }
inline double number(StableIValue value) {
  double out;
  memcpy(&out, &value, sizeof out);
  return out;
}

// Registers schemas, or the kernels of one dispatch key, for as long as the library is loaded. Made while the library is
// loaded, where an exception would end the process: what cannot be registered is left out, and Python looks for it.
class Library {
 public:
  Library(const char* ns, void (*fill)(Library&)) {
    if (aoti_torch_library_init_def(ns, __FILE__, __LINE__, &handle_) == 0) fill(*this);
  }
  Library(const char* ns, const char* key, void (*fill)(Library&)) {
    if (aoti_torch_library_init_impl(ns, key, __FILE__, __LINE__, &handle_) == 0) fill(*this);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (handle_) aoti_torch_delete_library_object(handle_);
  }

  void define(const char* schema) { right_ = right_ && aoti_torch_library_def(handle_, schema) == 0; }
  void implement(const char* name, void (*kernel)(StableIValue*, uint64_t, uint64_t)) {
    right_ = right_ && torch_library_impl(handle_, name, kernel, kTorchVersion) == 0;
  }

 private:
  TorchLibraryHandle handle_ = nullptr;
  bool right_ = true;
};

// body(begin, end) over [begin, end) on torch's own threads; the body must not throw.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  auto run = [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); };
  DDGAN_TORCH(torch_parallel_for, 0, count, grain, run, const_cast<Body*>(&body));
}

}  // namespace ddgan
