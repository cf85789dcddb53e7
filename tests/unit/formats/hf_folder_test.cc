#include "formats/hf_folder.h"

#include <gmock/gmock.h>

#include "base/json.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class HfFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& entry : std::filesystem::directory_iterator(data_path("sharded")))
      std::filesystem::copy(entry.path(), folder_.path());
  }
  std::string refusal() const {
    return error_of([&] { HfFolder::open(folder_.path()); });
  }
  const TempFolder folder_;
};

TEST_F(HfFolderTest, OpensAShardedFolder) {
  const HfFolder folder = HfFolder::open(folder_.path());
  EXPECT_EQ((*folder.config)["hidden_size"], 2);
  EXPECT_EQ((**folder.generation_config)["eos_token_id"], 2);
  EXPECT_FALSE(folder.tokenizer_config.has_value());
  EXPECT_EQ(folder.merges_txt, folder_ / "merges.txt");
  EXPECT_FALSE(folder.tokenizer_json.has_value());
  EXPECT_FALSE(folder.find_file("trol_gating.pt").has_value());
  EXPECT_EQ(folder.weights.tensors().size(), 3u);
}

TEST_F(HfFolderTest, ASingleFileGoesFirst) {
  std::filesystem::copy(data_path("types.safetensors"), folder_ / "model.safetensors");
  const HfFolder folder = HfFolder::open(folder_.path());
  EXPECT_NE(folder.weights.find("bf16"), nullptr);
  EXPECT_EQ(folder.weights.find("a.weight"), nullptr);
}

TEST_F(HfFolderTest, ListsAllThatIsWrongAtOnce) {
  std::filesystem::remove(folder_ / "config.json");
  std::filesystem::remove(folder_ / "model-00002-of-00002.safetensors");
  folder_.write("model-00001-of-00002.safetensors", "damaged");
  folder_.write("generation_config.json", "{");
  folder_.write("tokenizer_config.json", "[]");
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr("config.json: can't be opened"),
                    HasSubstr("model-00001-of-00002.safetensors: is not a safetensors file"),
                    HasSubstr("model-00002-of-00002.safetensors: can't be opened"),
                    HasSubstr("generation_config.json: not valid JSON"),
                    HasSubstr("tokenizer_config.json: top level: expected a JSON object")));
}

TEST_F(HfFolderTest, NeedsWeights) {
  for (const char* name : {"model.safetensors.index.json", "model-00001-of-00002.safetensors",
                           "model-00002-of-00002.safetensors"})
    std::filesystem::remove(folder_ / name);
  EXPECT_THAT(refusal(), HasSubstr("has no weights"));
}

TEST(HfFolder, NeedsAFolder) {
  EXPECT_THAT(error_of([] { HfFolder::open(data_path("small.gguf")); }),
              AllOf(HasSubstr("small.gguf"), HasSubstr("is not a folder")));
  EXPECT_THAT(error_of([] { HfFolder::open("/nonexistent/model"); }),
              HasSubstr("/nonexistent/model"));
}

TEST(WeightFile, RefusesTheSameNameTwice) {
  const std::vector<float> one = {1.0f};
  EXPECT_THAT(error_of([&] {
                WeightFile("somewhere", {make_view("a", {1}, one), make_view("a", {1}, one)});
              }),
              AllOf(HasSubstr("somewhere"), HasSubstr("'a'")));
}

}  // namespace
}  // namespace reprise
