#include <gmock/gmock.h>

#include "base/error.h"
#include "base/json.h"
#include "formats/safetensors_writer.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::ElementsAre;

std::vector<OutputTensor> four_tensors() {
  std::vector<OutputTensor> tensors;
  for (int i = 0; i < 4; ++i) {
    const std::vector<float> values(i == 2 ? 100 : 10, static_cast<float>(i));
    tensors.push_back({make_view(fmt::format("t{}", i), {static_cast<int64_t>(values.size())},
                                 std::span<const float>(values)),
                       DType::F32});
  }
  return tensors;
}

TEST(SafetensorsFolder, OneFileWhereAllFits) {
  const TempFolder folder;
  EXPECT_THAT(write_safetensors_folder(folder.path(), four_tensors(), {{"format", "pt"}}, 520),
              ElementsAre("model.safetensors"));
  const SafetensorsFile file = open_safetensors(folder / "model.safetensors");
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_EQ(file.weights.tensors().size(), 4u);
  EXPECT_FALSE(std::filesystem::exists(folder / "model.safetensors.index.json"));
}

TEST(SafetensorsFolder, ShardsHoldAtMostTheirSizeOrOneTensor) {
  const TempFolder folder;
  // 40, 40, 400 and 40 bytes: the third has a file of its own.
  EXPECT_THAT(write_safetensors_folder(folder.path(), four_tensors(), {{"format", "pt"}}, 100),
              ElementsAre("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                          "model-00003-of-00003.safetensors", "model.safetensors.index.json"));
  const Json index = load_json(folder / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 520);
  EXPECT_EQ(index["weight_map"]["t1"], "model-00001-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["t2"], "model-00002-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"]["t3"], "model-00003-of-00003.safetensors");
  const WeightFile all = open_safetensors_index(folder / "model.safetensors.index.json");
  EXPECT_EQ(all.tensors().size(), 4u);
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(to_floats(all.get(fmt::format("t{}", i)))[0], static_cast<float>(i));
  EXPECT_EQ(open_safetensors(folder / "model-00003-of-00003.safetensors").metadata.at("format"),
            "pt");
}

TEST(SafetensorsFolder, ConvertsAndSortsByWidth) {
  const TempFolder folder;
  std::vector<OutputTensor> tensors = four_tensors();
  tensors[0].type = DType::BF16;
  write_safetensors_folder(folder.path(), tensors, {}, 10'000);
  const WeightFile file = open_safetensors(folder / "model.safetensors").weights;
  EXPECT_THAT(names_of(file), ElementsAre("t1", "t2", "t3", "t0"));
  EXPECT_EQ(file.get("t0").type, DType::BF16);
}

}  // namespace
}  // namespace reprise
