// Schemas, checks and threads of the U-Net's ops on a CPU; ddgan_fast/ops/group_norm.py, residual.py and fir.py call them.
#include "unet.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu.h"
#include "images.h"

namespace ddgan {
namespace {

const UnetKernels& kernels() {
#ifdef DDGAN_AVX2
  static const UnetKernels chosen = vectors() == Vectors::kAvx512 ? avx512_unet_kernels()
                                    : vectors() == Vectors::kAvx2 ? avx2_unet_kernels()
                                                                  : baseline_unet_kernels();
#else
  static const UnetKernels chosen = baseline_unet_kernels();
#endif
  return chosen;
}

constexpr int64_t kGrain = 1 << 14;   // elements that are worth a thread
constexpr int64_t kBatch = 1 << 18;   // elements of the images that are normalised together, to find them in the cache again
constexpr int64_t kMostRun = 256;     // pixels whose sums float holds

int64_t grain_of(int64_t elements_of_unit) { return std::max<int64_t>(1, kGrain / elements_of_unit); }

// [C], or one row for each image of a batch that is not 0; an empty tensor is none.
Row take_row(const char* op, const char* name, const Tensor& x, int64_t batch, int64_t channels) {
  if (x.numel() == 0) return {};
  require_floats(op, name, x);
  const int64_t dim = x.dim();
  require((dim == 1 || (dim == 2 && x.sizes()[0] == batch)) && x.sizes()[dim - 1] == channels &&
              (channels == 1 || x.strides()[dim - 1] == 1),
          op, std::string(name) + " has shape " + text(x) + "; it must be [C]" + (batch ? " or [B, C]" : "") + ", the last stride 1");
  return {x.data<float>(), dim == 2 ? x.strides()[0] : 0};
}

void group_norm(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = "group_norm";
  Tensor x = tensor(stack[0]), skip = tensor(stack[1]), bias = tensor(stack[2]), embedding = tensor(stack[3]);
  Tensor scale = tensor(stack[4]), shift = tensor(stack[5]);
  NormArgs a;
  a.groups = integer(stack[6]);
  a.eps = number(stack[7]);
  a.swish = integer(stack[8]) != 0;
  const bool concat = integer(stack[9]) != 0;
  require_images(op, "x", x);
  const int64_t *n = x.sizes(), batch = n[0];
  a.source[0] = {x.data<float>(), n[1]};
  if (skip.numel() > 0) {
    require_images(op, "skip", skip);
    require(skip.sizes()[0] == batch && skip.sizes()[2] == n[2] && skip.sizes()[3] == n[3], op,
            "skip has shape " + text(skip) + " and x " + text(x));
    a.source[1] = {skip.data<float>(), skip.sizes()[1]};
  }
  require(!concat || a.source[1].channels > 0, op, "concat goes with a skip");
  a.channels = n[1] + a.source[1].channels;
  a.pixels = n[2] * n[3];
  require(a.groups >= 1 && a.channels % a.groups == 0, op,
          std::to_string(a.channels) + " channels and " + std::to_string(a.groups) + " groups");
  a.bias = take_row(op, "bias", bias, batch, a.channels);
  a.embedding = take_row(op, "embedding", embedding, batch, a.channels);
  a.scale = take_row(op, "scale", scale, batch, a.channels);
  a.shift = take_row(op, "shift", shift, batch, a.channels);
  require(a.scale.data && a.shift.data, op, "scale and shift must be given");

  Tensor out = a.source[1].channels ? empty_images(x, a.channels, n[2], n[3]) : Tensor::empty_like(x);
  const int64_t none = 0, stride = 1;
  Tensor cat = concat ? Tensor::empty_like(out) : Tensor::empty(1, &none, &stride, x.dtype(), x);
  a.out = out.data<float>();
  a.cat = concat ? cat.data<float>() : nullptr;
  a.run = std::clamp<int64_t>(kGrain / a.channels, 1, std::min(kMostRun, a.pixels));
  a.parts = (a.pixels + a.run - 1) / a.run;
  const int64_t elements = a.channels * a.pixels, together = std::clamp<int64_t>(kBatch / elements, 1, batch);
  std::vector<float> moments(static_cast<size_t>(together * a.parts * 3 * a.channels));
  std::vector<float> coefficients(static_cast<size_t>(together * 3 * a.channels));
  a.moments = moments.data();
  a.coefficients = coefficients.data();
  const auto over = [&a](int64_t count, int64_t grain, void (*kernel)(const NormArgs&, int64_t, int64_t)) {
    parallel_for(count, grain, [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
  };
  for (; a.first < batch; a.first += together) {
    const int64_t images = std::min(together, batch - a.first), grain = grain_of(a.channels * a.run);
    over(images * a.parts, grain, kernels().moments);
    over(images * a.groups, grain_of(a.parts * a.channels / a.groups), kernels().coefficients);
    over(images * a.parts, grain, kernels().apply);
  }
  stack[0] = out.release();
  stack[1] = cat.release();
}

void residual_join(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = "residual_join";
  Tensor x = tensor(stack[0]), h = tensor(stack[1]), x_bias = tensor(stack[2]), h_bias = tensor(stack[3]);
  JoinArgs a;
  a.scale = static_cast<float>(number(stack[4]));
  require_images(op, "x", x);
  require_images(op, "h", h);
  require(same_sizes(x, h), op, "h has shape " + text(h) + "; it must be " + text(x));
  a.channels = x.sizes()[1];
  std::vector<float> bias(static_cast<size_t>(a.channels));
  for (const Row& row : {take_row(op, "x_bias", x_bias, 0, a.channels), take_row(op, "h_bias", h_bias, 0, a.channels)}) {
    for (int64_t c = 0; row.data && c < a.channels; ++c) bias[static_cast<size_t>(c)] += row.data[c];
  }
  Tensor out = Tensor::empty_like(x);
  a.x = x.data<float>();
  a.h = h.data<float>();
  a.bias = bias.data();
  a.out = out.data<float>();
  parallel_for(x.numel() / a.channels, grain_of(a.channels),
               [&](int64_t begin, int64_t end) { kernels().join(a, begin, end); });
  stack[0] = out.release();
}

template <Fir kind>
void fir(StableIValue* stack, uint64_t, uint64_t) {
  const char* op = kind == kUp2 ? "fir_up2" : kind == kDown2 ? "fir_down2" : "fir_blur";
  Tensor x = tensor(stack[0]);
  require_images(op, "x", x);
  const auto resized = [](int64_t size) { return kind == kUp2 ? 2 * size : kind == kDown2 ? size / 2 : size + 1; };
  FirArgs a;
  a.channels = x.sizes()[1];
  a.height = x.sizes()[2];
  a.width = x.sizes()[3];
  a.out_height = resized(a.height);
  a.out_width = resized(a.width);
  require(a.out_height > 0 && a.out_width > 0, op, "x has shape " + text(x) + "; height and width must be 2 or more");
  Tensor out = empty_images(x, a.channels, a.out_height, a.out_width);
  a.x = x.data<float>();
  a.out = out.data<float>();
  parallel_for(x.sizes()[0] * a.out_height, grain_of(a.out_width * a.channels),
               [&](int64_t begin, int64_t end) { kernels().fir[kind](a, begin, end); });
  stack[0] = out.release();
}

}  // namespace

void define_unet(Library& library) {
  library.define(
      "group_norm(Tensor x, Tensor skip, Tensor bias, Tensor embedding, Tensor scale, Tensor shift, int groups, float eps, "
      "int swish, int concat) -> (Tensor, Tensor)");
  library.define("residual_join(Tensor x, Tensor h, Tensor x_bias, Tensor h_bias, float scale) -> Tensor");
  library.define("fir_up2(Tensor x) -> Tensor");
  library.define("fir_down2(Tensor x) -> Tensor");
  library.define("fir_blur(Tensor x) -> Tensor");
}

void implement_unet(Library& library) {
  library.implement("group_norm", group_norm);
  library.implement("residual_join", residual_join);
  library.implement("fir_up2", fir<kUp2>);
  library.implement("fir_down2", fir<kDown2>);
  library.implement("fir_blur", fir<kBlur>);
}

}  // namespace ddgan
