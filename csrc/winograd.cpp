// Schema, checks and threads of the op of ddgan_fast/ops/conv3x3.py.
#include "winograd.h"

#include <algorithm>
#include <string>

#include "cpu.h"
#include "images.h"

namespace ddgan {
namespace {

constexpr const char* kOp = "conv3x3";
constexpr int64_t kMultiple = 6;  // of tiles in a block: the fastest kernel takes so many at a time
static_assert(kMostTiles % kMultiple == 0, "a block is full of them");

const ConvKernels& kernels() {
#ifdef DDGAN_AVX2
  static const ConvKernels chosen = vectors() >= Vectors::kAvx2 ? avx2_conv() : baseline_conv();
#else
  static const ConvKernels chosen = baseline_conv();
#endif
  return chosen;
}

constexpr int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// Fills conv.out. Each thread takes its share of the blocks; where there are few tiles, its share of the panels.
void run(Conv& conv, const Tensor& like) {
  uint32_t found;
  DDGAN_TORCH(torch_get_num_threads, &found);
  const int64_t threads = found, tiles = conv.batch * conv.rows * conv.columns;
  const int64_t panels = round_up(conv.outputs, kPanel) / kPanel;
  const bool few = 2 * tiles < threads * kMostTiles;
  const int64_t rounds = round_up(tiles, threads * kMostTiles) / (threads * kMostTiles);
  const int64_t size = few ? kMostTiles : round_up(round_up(tiles, rounds * threads) / (rounds * threads), kMultiple);
  const int64_t blocks = round_up(tiles, size) / size, slots = few ? blocks : std::min(blocks, threads);
  conv.point_stride = std::min(size, tiles) * conv.inputs + 16;  // not a power of two: points would share sets of the cache

  const int64_t slot_size = kPoints * conv.point_stride, count = conv.inputs + slots * slot_size, stride = 1;
  const Tensor scratch = Tensor::empty(1, &count, &stride, like.dtype(), like);
  float* zeros = scratch.data<float>();
  float* points = zeros + conv.inputs;
  std::fill(zeros, points, 0.0f);
  conv.zeros = zeros;

  const ConvKernels& kernel = kernels();
  const auto inputs = [&](int64_t block, int64_t slot, int64_t tile) {
    kernel.inputs(conv, tile, points + slot * slot_size + (tile - block * size) * conv.inputs);
  };
  const auto outputs = [&](int64_t block, int64_t slot, int64_t panel) {
    kernel.outputs(conv, points + slot * slot_size, panel, block * size, std::min((block + 1) * size, tiles));
  };
  if (few) {
    parallel_for(tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) inputs(tile / size, tile / size, tile);
    });
    parallel_for(blocks * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) outputs(task / panels, task / panels, task % panels);
    });
    return;
  }
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      for (int64_t block = slot; block < blocks; block += slots) {
        for (int64_t tile = block * size; tile < std::min((block + 1) * size, tiles); ++tile) inputs(block, slot, tile);
        for (int64_t panel = 0; panel < panels; ++panel) outputs(block, slot, panel);
      }
    }
  });
}

// conv3x3(x, weight, bias, join, scale, outputs); an empty bias or join is none.
void conv3x3(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor x = tensor(stack[0]), weight = tensor(stack[1]), bias = tensor(stack[2]), join = tensor(stack[3]);
  Conv conv;
  conv.scale = static_cast<float>(number(stack[4]));
  conv.outputs = integer(stack[5]);
  require_images(kOp, "x", x);
  conv.x = x.data<float>();
  conv.batch = x.sizes()[0], conv.inputs = x.sizes()[1], conv.height = x.sizes()[2], conv.width = x.sizes()[3];
  conv.rows = round_up(conv.height, kTile) / kTile, conv.columns = round_up(conv.width, kTile) / kTile;

  require(conv.outputs > 0, kOp, "outputs is " + std::to_string(conv.outputs) + "; it must be at least 1");
  const int64_t sizes[4] = {round_up(conv.outputs, kPanel) / kPanel, kPoints, conv.inputs, kPanel};
  require_floats(kOp, "weight", weight);
  require(weight.dim() == 4 && std::equal(sizes, sizes + 4, weight.sizes()) && contiguous(weight), kOp,
          "weight has shape " + text(weight) + "; it must be [outputs / 16, 36, inputs, 16], contiguous");
  conv.weight = weight.data<float>();
  if (bias.numel()) {
    require_floats(kOp, "bias", bias);
    require(bias.dim() == 1 && bias.numel() == conv.outputs && contiguous(bias), kOp,
            "bias has shape " + text(bias) + "; it must be [outputs], contiguous");
    conv.bias = bias.data<float>();
  }
  Tensor out = empty_images(x, conv.outputs, conv.height, conv.width);
  if (join.numel()) {
    require_images(kOp, "join", join);
    require(same_sizes(join, out), kOp, "join has shape " + text(join) + "; it must be [B, outputs, H, W]");
    conv.join = join.data<float>();
  }
  conv.out = out.data<float>();
  run(conv, x);
  stack[0] = out.release();
}

}  // namespace

void define_conv(Library& library) {
  library.define("conv3x3(Tensor x, Tensor weight, Tensor bias, Tensor join, float scale, int outputs) -> Tensor");
}

void implement_conv(Library& library) { library.implement(kOp, conv3x3); }

}  // namespace ddgan
