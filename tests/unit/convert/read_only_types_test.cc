// Models with weights of types that are read but never written (Q4_K, Q6_K): they run as their F32
// values do, and convert to them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/factory.h"
#include "base/rng.h"
#include "convert/convert.h"
#include "formats/gguf_writer.h"
#include "support/error_of.h"
#include "support/golden.h"
#include "support/test_models.h"
#include "support/tiny_models.h"

namespace reprise {
namespace {

std::vector<std::string> names_of(const WeightFile& file) {
  std::vector<std::string> names;
  for (const TensorView& tensor : file.tensors()) names.push_back(tensor.name);
  return names;
}

using ::testing::HasSubstr;

std::vector<DType> read_only_types() {
  std::vector<DType> types = quantized_types();
  std::erase_if(types, can_quantize);
  return types;
}

// Blocks whose values are of the size of weights: random bytes, again and again until they are.
std::vector<std::byte> random_blocks(DType type, int64_t values, Philox& random) {
  std::vector<std::byte> bytes;
  std::vector<std::byte> block(static_cast<size_t>(block_bytes(type)));
  std::vector<float> x(static_cast<size_t>(block_values(type)));
  for (int64_t done = 0; done < values;) {
    for (std::byte& b : block) b = static_cast<std::byte>(random.next_below(256));
    dequantize_row(type, block.data(), x.data(), block_values(type));
    float most = 0;
    for (const float value : x) most = std::isfinite(value) ? std::max(most, std::fabs(value)) : 9;
    if (most < 0.01f || most > 0.3f) continue;
    bytes.insert(bytes.end(), block.begin(), block.end());
    done += block_values(type);
  }
  return bytes;
}

class ReadOnlyTypes : public ::testing::TestWithParam<DType> {
 protected:
  // A GGUF file whose matrices and tables are all of the type.
  ReadOnlyTypes() {
    const DType type = GetParam();
    const auto width = static_cast<int>(block_values(type));
    const Json config = test::tiny_text_config("LlamaForCausalLM", {.d = width,
                                                                    .heads = 4,
                                                                    .kv_heads = 4,
                                                                    .head_dim = width / 4,
                                                                    .ffn = width,
                                                                    .vocab = 40,
                                                                    .layers = 1});
    const auto backend = make_cpu_backend({.threads = 1});
    const auto model = test::tiny_model(config, *backend);
    std::vector<GgufTensor> tensors;
    Philox random(5, 0);
    model->visit_tensors([&](const TensorSlot& slot) {
      if (slot.use == WeightUse::Vector) {
        tensors.push_back({make_view(slot.name, slot.shape, test::tiny_values(slot)), DType::F32});
        return;
      }
      stored_ += tensor_bytes(type, slot.shape);
      values_ += num_elements(slot.shape);
      tensors.push_back({make_view(slot.name, type, slot.shape,
                                   random_blocks(type, num_elements(slot.shape), random)),
                         type});
    });
    GgufMetadata metadata;
    metadata.set("general.architecture", std::string("reprise"));
    metadata.set("reprise.config", config.dump());
    write_gguf(gguf_, metadata, tensors);
  }

  // All that a trace of a short prompt shows, and the memory that the weights take.
  static WeightFile run(const std::filesystem::path& path, const test::Machine& machine,
                        int64_t* weight_bytes = nullptr) {
    const auto loaded = test::load_model(path, machine);
    const TokenInputs inputs = {.where = "test", .ids = {1, 7, 39, 0, 22}};
    if (weight_bytes) *weight_bytes = loaded->backend().stats().weight_bytes;
    return WeightFile(path.string(), trace(*loaded, inputs, {.steps = 2}));
  }
  static void expect_same(const WeightFile& found, const WeightFile& expected) {
    ASSERT_EQ(names_of(found), names_of(expected));
    for (const TensorView& tensor : expected.tensors())
      EXPECT_TRUE(std::ranges::equal(found.get(tensor.name).data, tensor.data))
          << found.where() << ": " << tensor.name;
  }

  testing::TempFolder folder_;
  const std::filesystem::path gguf_ = folder_ / "m.gguf";
  int64_t stored_ = 0, values_ = 0;
};

TEST_P(ReadOnlyTypes, RunsAsItsValuesInF32) {
  const DType type = GetParam();
  const ConversionSource source = open_source(gguf_);
  ConvertOptions options;
  options.types.type = DType::F32;
  const ConvertResult result = convert_to_gguf(source, folder_ / "f32.gguf", options);
  EXPECT_LT(stored_, 4 * values_);
  for (const ConvertedTensor& tensor : result.tensors) {
    EXPECT_EQ(tensor.to, DType::F32) << tensor.name;
    EXPECT_EQ(tensor.error.largest, 0) << tensor.name;
  }
  convert_to_folder(source, folder_ / "folder", {});
  for (const test::Machine& machine : test::machines()) {
    int64_t held = 0;
    const WeightFile expected = run(folder_ / "f32.gguf", machine);
    for (const float x : to_floats(expected.get("logits"))) ASSERT_TRUE(std::isfinite(x));
    expect_same(run(gguf_, machine, &held), expected);
    expect_same(run(folder_ / "folder", machine), expected);
    EXPECT_GE(held, 4 * values_) << machine.name();
  }

  // As it is: the same blocks.
  convert_to_gguf(source, folder_ / "same.gguf", {});
  const WeightFile a = open_gguf(gguf_).weights, b = open_gguf(folder_ / "same.gguf").weights;
  for (const TensorView& tensor : a.tensors()) {
    EXPECT_EQ(b.get(tensor.name).type, tensor.type) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(b.get(tensor.name).data, tensor.data)) << tensor.name;
  }
  // It can be made smaller or larger in a type that is written, but is not written anew itself.
  options.types.type = DType::BF16;
  EXPECT_NO_THROW(convert_to_gguf(source, folder_ / "bf16.gguf", options));
  EXPECT_THAT(test::error_of([&] { parse_type(std::string(dtype_name(type)), "--type"); }),
              HasSubstr("expected one of keep, f32"));
}

INSTANTIATE_TEST_SUITE_P(Types, ReadOnlyTypes, ::testing::ValuesIn(read_only_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

}  // namespace
}  // namespace reprise
