// The CUDA part of the ops: on the device of the tensors, on torch's current stream, without a wait or an allocation of its
// own, so that a CUDA graph can capture it. The schemas are in posterior.cpp, which is loaded first.
#include "posterior.h"

#include <dlfcn.h>

#include "gpu_kernels.cuh"

// Python reads this text in the file before it loads the library; see posterior.cpp.
extern "C" __attribute__((visibility("default"), used)) const char ddgan_extension_abi_cuda[] =
    "ddgan_fast extension abi 2;";

namespace ddgan {
namespace {

// Of libtorch_cuda, which a CPU build of torch has not got, and which torch opens where the loader does not look.
cudaStream_t current_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t, void**);
  static const Get get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return library ? reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  if (!get) fail("cuda: this torch has no aoti_torch_get_current_cuda_stream");
  void* stream = nullptr;
  call(get(device, &stream), "aoti_torch_get_current_cuda_stream");
  return static_cast<cudaStream_t>(stream);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail(std::string(what) + ": " + cudaGetErrorString(error));
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int32_t device) { DDGAN_TORCH(aoti_torch_create_device_guard, device, &handle_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  ~DeviceGuard() { aoti_torch_delete_device_guard(handle_); }

 private:
  DeviceGuardHandle handle_ = nullptr;
};

template <class Kernel>
void launch(Kernel kernel, const Args& args, int64_t chunks, int32_t device) {
  const DeviceGuard guard(device);
  check(cudaSetDevice(device), "cudaSetDevice");  // this library has a CUDA runtime of its own
  const int64_t blocks = (chunks + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(blocks < (1 << 20) ? blocks : 1 << 20),
                  static_cast<unsigned>(args.batch < 65535 ? args.batch : 65535));
  kernel<<<grid, kThreads, 0, current_stream(device)>>>(args, chunks);
  check(cudaGetLastError(), "kernel launch");
}

// All images start on 16 bytes.
template <class T>
bool aligned(const Args& args, bool pixels_too) {
  const int64_t vector = 16 / static_cast<int64_t>(sizeof(T));
  uintptr_t bits = 0;
  for (const void* pointer : {args.x0, args.x_t, args.noise[0], args.noise[1]}) bits |= reinterpret_cast<uintptr_t>(pointer);
  for (const void* pointer : {args.out[0], args.out[1]}) bits |= reinterpret_cast<uintptr_t>(pointer);
  return bits % 16 == 0 && (pixels_too ? args.pixels : args.channels * args.pixels) % vector == 0;
}

template <class T, Op kOp, Walk kWalk>
void step_on(const Args& args, int32_t device) {
  const int64_t size = Chunk<T, kWalk>::kSize, chunks = (args.channels * args.pixels + size - 1) / size;
  launch(args.seeds ? step_kernel<T, kOp, kWalk, true> : step_kernel<T, kOp, kWalk, false>, args, chunks, device);
}

template <class T, Op kOp>
void step(const Args& args, int32_t device) {
  if (!args.channels_last && aligned<T>(args, false)) return step_on<T, kOp, Walk::kFlat>(args, device);
  if (args.channels_last && args.channels == 3 && aligned<T>(args, true)) return step_on<T, kOp, Walk::kRgb>(args, device);
  step_on<T, kOp, Walk::kAny>(args, device);
}

template <class T>
void final_step(const Args& args, int32_t device) {
  const int64_t pixels = 16 / static_cast<int64_t>(sizeof(T));
  if (args.channels != 3 || !aligned<T>(args, true)) {
    launch(final_kernel<T, Walk::kAny>, args, (args.channels * args.pixels + 3) / 4, device);
  } else if (args.channels_last) {
    launch(final_kernel<T, Walk::kRgb>, args, args.pixels / pixels, device);
  } else {
    launch(final_kernel<T, Walk::kFlat>, args, args.pixels / pixels, device);
  }
}

template <class Float, class Half, class Bfloat16>
void by_storage(Storage storage, Float on_float, Half on_half, Bfloat16 on_bfloat16) {
  if (storage == Storage::kFloat) return on_float();
  if (storage == Storage::kHalf) return on_half();
  on_bfloat16();
}

template <Op kOp>
void step_by_storage(const Args& a, int32_t device) {
  by_storage(
      a.storage, [&] { step<float, kOp>(a, device); }, [&] { step<__half, kOp>(a, device); },
      [&] { step<__nv_bfloat16, kOp>(a, device); });
}

struct Gpu {
  static void check_t(const char*, const Args&) {}  // reading t would mean waiting; the kernels give NaN
  static void posterior(const Args& args, int32_t device) { step_by_storage<Op::kPosterior>(args, device); }
  static void pair(const Args& args, int32_t device) { step_by_storage<Op::kPair>(args, device); }
  static void final_uint8(const Args& a, int32_t device) {
    by_storage(
        a.storage, [&] { final_step<float>(a, device); }, [&] { final_step<__half>(a, device); },
        [&] { final_step<__nv_bfloat16>(a, device); });
  }
  static void normal(const Args& args, int32_t device) {
    launch(philox_kernel<false>, args, (args.pixels + 3) / 4, device);
  }
  static void words(const Args& args, int32_t device) {
    launch(philox_kernel<true>, args, (args.pixels + 3) / 4, device);
  }
};

const Library cuda_kernels("ddgan_cpp", "CUDA", implement_all<Gpu>);

}  // namespace
}  // namespace ddgan
