// Schemas and CPU kernels of the ops of ddgan_fast/ops/posterior.py, philox.py and q_sample.py.
#include "posterior.h"

#include "cpu.h"
#include "philox.h"
#include "unet.h"
#include "winograd.h"

// Python reads this text in the file before it loads the library; the number changes with any schema.
extern "C" __attribute__((visibility("default"), used)) const char ddgan_extension_abi[] = "ddgan_fast extension abi 2;";

namespace ddgan {
namespace {

const Kernels& kernels() {
#ifdef DDGAN_AVX2
  static const Kernels chosen = vectors() >= Vectors::kAvx2 ? avx2_kernels() : baseline_kernels();
#else
  static const Kernels chosen = baseline_kernels();
#endif
  return chosen;
}

constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread

void over_tiles(const Args& args, Kernels::Range range) {
  const int64_t tiles = tiles_of(args), elements = args.channels * args.pixels;
  const int64_t grain = kGrain * tiles / elements;
  parallel_for(args.batch * tiles, grain > 1 ? grain : 1,
               [&](int64_t begin, int64_t end) { range(args, begin, end); });
}

struct Cpu {
  static void check_t(const char* op, const Args& args) {
    for (int64_t b = 0; b < args.batch; ++b) {
      require(args.t[b] >= 0 && args.t[b] < args.steps, op,
              "t[" + std::to_string(b) + "] is " + std::to_string(args.t[b]) + "; it must be 0 to " +
                  std::to_string(args.steps - 1));
    }
  }
  static void posterior(const Args& args, int32_t) {
    over_tiles(args, kernels().posterior[static_cast<int>(args.storage)]);
  }
  static void final_uint8(const Args& args, int32_t) {
    over_tiles(args, kernels().final_uint8[static_cast<int>(args.storage)]);
  }
  static void pair(const Args& args, int32_t) { over_tiles(args, kernels().pair[static_cast<int>(args.storage)]); }
  static void normal(const Args& args, int32_t) { over_tiles(args, kernels().normal); }
  static void words(const Args& args, int32_t) {
    for (int64_t i = 0; i < args.batch * args.pixels; ++i) {
      const int64_t b = i / args.pixels, element = i % args.pixels;
      uint32_t four[4];
      words4<Scalar>(key_of(args.seeds[b], args.stream[0], args.step), static_cast<uint32_t>(element / 4), four);
      static_cast<int64_t*>(args.out[0])[i] = four[element % 4];
    }
  }
};

void define_all(Library& library) {
  library.define("posterior_step(Tensor x0, Tensor x_t, Tensor t, Tensor table, Tensor noise) -> Tensor");
  library.define(
      "posterior_step_seeded(Tensor x0, Tensor x_t, Tensor t, Tensor table, Tensor seeds, int stream, int step) -> Tensor");
  library.define("posterior_final_uint8(Tensor x0, Tensor x_t, Tensor table) -> Tensor");
  library.define(
      "q_sample_pair(Tensor x0, Tensor t, Tensor table, Tensor noise_t, Tensor noise_tp1) -> (Tensor, Tensor)");
  library.define(
      "q_sample_pair_seeded(Tensor x0, Tensor t, Tensor table, Tensor seeds, int stream_t, int stream_tp1, int step) -> "
      "(Tensor, Tensor)");
  library.define("philox_normal(Tensor seeds, int stream, int step, int count) -> Tensor");
  library.define("philox_words(Tensor seeds, int stream, int step, int count) -> Tensor");
  define_unet(library);
  define_conv(library);
}

void implement_cpu(Library& library) {
  implement_all<Cpu>(library);
  implement_unet(library);
  implement_conv(library);
}

const Library schemas("ddgan_cpp", define_all);
const Library cpu_kernels("ddgan_cpp", "CPU", implement_cpu);

}  // namespace
}  // namespace ddgan
