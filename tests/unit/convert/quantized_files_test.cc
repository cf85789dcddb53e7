// Models with weights of every quantized type: they run as their F32 values do, and convert to them.
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
#include "support/quant_blocks.h"
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

class QuantizedFiles : public ::testing::TestWithParam<DType> {
 protected:
  // A GGUF file whose matrices and tables are all of the type.
  QuantizedFiles() {
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
        vectors_ += 4 * num_elements(slot.shape);
        tensors.push_back({make_view(slot.name, slot.shape, test::tiny_values(slot)), DType::F32});
        return;
      }
      stored_ += tensor_bytes(type, slot.shape);
      values_ += num_elements(slot.shape);
      std::vector<std::byte> bytes(static_cast<size_t>(tensor_bytes(type, slot.shape)));
      const test::QuantBlocks blocks(type);
      for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(block_bytes(type)))
        blocks.fill(&bytes[at], 0.2f, [&] { return random.next_below(256); });
      tensors.push_back({make_view(slot.name, type, slot.shape, std::move(bytes)), type});
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
  // kernels of the type add in another order than those of F32
  static void expect_close(const WeightFile& found, const WeightFile& expected) {
    ASSERT_EQ(names_of(found), names_of(expected));
    for (const TensorView& tensor : expected.tensors()) {
      if (!is_float(tensor.type)) continue;
      const std::vector<float> a = to_floats(found.get(tensor.name)), b = to_floats(tensor);
      float most = 1;
      for (const float x : b) most = std::max(most, std::fabs(x));
      EXPECT_LE(test::distance(a, b), 2e-5 * most) << found.where() << ": " << tensor.name;
    }
  }

  testing::TempFolder folder_;
  const std::filesystem::path gguf_ = folder_ / "m.gguf";
  int64_t stored_ = 0, values_ = 0, vectors_ = 0;
};

TEST_P(QuantizedFiles, RunsAsItsValuesInF32) {
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
    expect_close(run(gguf_, machine, &held), expected);
    expect_close(run(folder_ / "folder", machine), expected);
    if (machine.backend == "cpu") {  // as in the file, but for padding and codes of 6 bits
      EXPECT_LE(held, stored_ * 11 / 10 + vectors_) << machine.name();
    }
  }

  // As it is: the same blocks.
  convert_to_gguf(source, folder_ / "same.gguf", {});
  const WeightFile a = open_gguf(gguf_).weights, b = open_gguf(folder_ / "same.gguf").weights;
  for (const TensorView& tensor : a.tensors()) {
    EXPECT_EQ(b.get(tensor.name).type, tensor.type) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(b.get(tensor.name).data, tensor.data)) << tensor.name;
  }
  options.types.type = DType::BF16;
  EXPECT_NO_THROW(convert_to_gguf(source, folder_ / "bf16.gguf", options));
  if (can_quantize(type)) return;
  EXPECT_THAT(test::error_of([&] { parse_type(std::string(dtype_name(type)), "--type"); }),
              HasSubstr("expected one of keep, f32"));
}

INSTANTIATE_TEST_SUITE_P(Types, QuantizedFiles, ::testing::ValuesIn(quantized_types()),
                         [](const auto& info) { return std::string(dtype_name(info.param)); });

}  // namespace
}  // namespace reprise
