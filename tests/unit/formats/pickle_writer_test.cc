#include "formats/pickle_writer.h"

#include <gmock/gmock.h>

#include <cstring>

#include "formats/pickle.h"
#include "formats/safetensors.h"
#include "formats/zip.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(WritePt, OurReaderGivesTheSameTensors) {
  const TempFolder folder;
  std::vector<TensorView> tensors =
      open_safetensors(data_path("types.safetensors")).weights.tensors();
  const auto path = folder / "all.pt";
  write_pt(path, tensors);
  const WeightFile back = open_pt(path);
  ASSERT_EQ(back.tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorView& a = tensors[i];
    const TensorView& b = back.tensors()[i];
    EXPECT_EQ(b.name, a.name);
    EXPECT_EQ(b.type, a.type) << a.name;
    EXPECT_EQ(b.shape, a.shape) << a.name;
    ASSERT_EQ(b.data.size(), a.data.size()) << a.name;
    if (!a.data.empty()) {
      EXPECT_EQ(std::memcmp(b.data.data(), a.data.data(), a.data.size()), 0) << a.name;
    }
  }
}

// A list that holds one module several times: the values are stored once, aligned.
TEST(WritePt, EqualMemoryIsOneStorage) {
  const TempFolder folder;
  const std::vector<float> values = {1, 2, 3, 4};
  TensorView weight = make_view("0.weight", {1, 4}, std::span<const float>(values));
  std::vector<TensorView> tensors;
  for (int layer = 0; layer < 3; ++layer) {
    weight.name = std::to_string(layer) + ".weight";
    tensors.push_back(weight);
  }
  write_pt(folder / "gate.pt", tensors);
  const ZipArchive zip = ZipArchive::open(folder / "gate.pt");
  std::vector<std::string> names;
  for (const ZipEntry& entry : zip.entries()) names.push_back(entry.name);
  EXPECT_THAT(names, ElementsAre("gate/data.pkl", "gate/byteorder", "gate/data/0", "gate/version"));
  const WeightFile back = open_pt(folder / "gate.pt");
  EXPECT_THAT(names_of(back), ElementsAre("0.weight", "1.weight", "2.weight"));
  for (const TensorView& tensor : back.tensors()) {
    EXPECT_THAT(to_floats(tensor), ElementsAre(1, 2, 3, 4));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data.data()) % 64, 0u);
  }
}

TEST(WritePt, Errors) {
  const TempFolder folder;
  const std::vector<float> values(32, 1.0f);
  const TensorView a = make_view("a", {32}, std::span<const float>(values));
  EXPECT_THAT(error_of([&] { write_pt(folder / "x.pt", {a, a}); }),
              HasSubstr("'a' is there twice"));
  const TensorView q = make_view("q", DType::Q8_0, {32}, std::vector<std::byte>(34));
  EXPECT_THAT(error_of([&] { write_pt(folder / "x.pt", {q}); }),
              ::testing::AllOf(HasSubstr("'q'"), HasSubstr("Q8_0")));
  EXPECT_FALSE(std::filesystem::exists(folder / "x.pt"));
  EXPECT_THAT(error_of([&] { write_pt(folder / "no/x.pt", {a}); }), HasSubstr("no/x.pt"));
}

}  // namespace
}  // namespace reprise
