// Images from a compiled sampler (a .pt2 file), without Python: sample MODEL.pt2 OUT.ppm COUNT SEED
//
// The sizes are in the file: "inputs" lists name and shape of each input, as "x_T batch 3 32 32; z 4 batch 100; noise 4 batch 3 32 32".

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// A whole number of the command line, in [least, most].
int64_t whole(const std::string& text, const std::string& name, int64_t least, int64_t most) {
  std::istringstream stream(text);
  int64_t value = 0;
  if (!(stream >> value) || !stream.eof() || value < least || value > most) {
    throw std::invalid_argument(
        name + " is '" + text + "': it takes a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

// The inputs of the sampler, drawn one after the other; each is standard normal.
std::vector<torch::Tensor> draw(const std::string& ports, int64_t count, const torch::Device& device) {
  std::vector<torch::Tensor> inputs;
  std::istringstream list(ports);
  for (std::string port; std::getline(list, port, ';');) {
    std::istringstream words(port);
    std::string word;
    words >> word;  // the name
    std::vector<int64_t> shape;
    while (words >> word) shape.push_back(word == "batch" ? count : std::stoll(word));
    inputs.push_back(torch::randn(shape).to(device));
  }
  return inputs;
}

// A square grid of images [B, 1 or 3, H, W] in [-1, 1], as a PPM file; grey is repeated to red, green and blue.
void write_ppm(const torch::Tensor& images, const std::string& path) {
  if (images.dim() != 4 || (images.size(1) != 1 && images.size(1) != 3)) {
    throw std::runtime_error("the model makes neither grey nor RGB images");
  }
  const int64_t count = images.size(0), height = images.size(2), width = images.size(3);
  const auto columns = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const int64_t rows = (count + columns - 1) / columns;
  auto bytes = ((images + 1) * 127.5 + 0.5).clamp(0, 255).to(torch::kUInt8).expand({count, 3, height, width});
  auto empty = torch::zeros({rows * columns - count, 3, height, width}, torch::kUInt8);
  auto grid = torch::cat({bytes, empty}).reshape({rows, columns, 3, height, width}).permute({0, 3, 1, 4, 2}).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << columns * width << " " << rows * height << "\n255\n";
  file.write(reinterpret_cast<const char*>(grid.data_ptr<uint8_t>()), grid.numel());
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: sample MODEL.pt2 OUT.ppm COUNT SEED\n";
    return 2;
  }
  try {
    const std::string model = argv[1], out = argv[2];
    const int64_t count = whole(argv[3], "COUNT", 1, 4096), seed = whole(argv[4], "SEED", 0, INT64_MAX);
    c10::InferenceMode guard;
    torch::inductor::AOTIModelPackageLoader loader(model);
    auto about = loader.get_metadata();
    if (about["target"] != "sampler") {
      throw std::runtime_error(model + " is not a sampler: export one by ddgan export --format pt2 --target sampler");
    }
    torch::manual_seed(seed);
    const auto images = loader.run(draw(about["inputs"], count, torch::Device(about["AOTI_DEVICE_KEY"])))[0].cpu();
    write_ppm(images, out);
  } catch (const c10::Error& error) {
    std::cerr << "sample: " << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "sample: " << error.what() << "\n";
    return 1;
  }
}
