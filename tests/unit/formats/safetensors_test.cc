#include "formats/safetensors.h"

#include <gmock/gmock.h>

#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A file of a header and `data` zero bytes.
std::string make_file(const std::string& header, size_t data) {
  return raw(uint64_t{header.size()}) + header + std::string(data, '\0');
}

std::string refusal(const std::string& bytes) {
  const TempFolder folder;
  const auto path = folder.write("x.safetensors", bytes);
  const std::string error = error_of([&] { open_safetensors(path); });
  if (!error.empty()) {
    EXPECT_THAT(error, HasSubstr(path.string()));
  }
  return error;
}

TEST(Safetensors, ReadsAllTypesOfThePythonPackage) {
  const SafetensorsFile file = open_safetensors(data_path("types.safetensors"));
  EXPECT_EQ(file.metadata.at("note"), "é");
  const std::vector<std::pair<std::string, DType>> types = {
      {"f64", DType::F64}, {"f32", DType::F32},  {"f16", DType::F16}, {"bf16", DType::BF16},
      {"i64", DType::I64}, {"i32", DType::I32},  {"i16", DType::I16}, {"i8", DType::I8},
      {"u8", DType::U8},   {"bool", DType::Bool}};
  for (const auto& [name, type] : types) {
    const TensorView& tensor = file.weights.get(name);
    EXPECT_EQ(tensor.type, type);
    EXPECT_EQ(tensor.shape, (Shape{2, 3}));
    if (type == DType::Bool)
      EXPECT_THAT(to_floats(tensor), ElementsAre(0, 1, 1, 1, 1, 1));
    else if (type == DType::U8)
      EXPECT_THAT(to_floats(tensor), ElementsAre(0, 1, 2, 3, 4, 5));
    else
      EXPECT_THAT(to_floats(tensor), ElementsAre(-2, -1, 0, 1, 2, 3)) << name;
  }
  EXPECT_THAT(to_ints(file.weights.get("i16")), ElementsAre(-2, -1, 0, 1, 2, 3));
  EXPECT_EQ(file.weights.get("scalar").shape, Shape{});
  EXPECT_THAT(to_floats(file.weights.get("scalar")), ElementsAre(1.5));
  EXPECT_EQ(file.weights.get("empty").shape, (Shape{0, 4}));
  EXPECT_EQ(file.weights.tensors().size(), 12u);
  EXPECT_EQ(file.weights.find("nothing"), nullptr);
  EXPECT_THAT(error_of([&] { file.weights.get("nothing"); }),
              AllOf(HasSubstr("types.safetensors"), HasSubstr("'nothing'")));
}

TEST(Safetensors, ViewsOutliveTheFileObject) {
  TensorView tensor;
  {
    const SafetensorsFile file = open_safetensors(data_path("types.safetensors"));
    tensor = file.weights.get("f32");
  }
  EXPECT_THAT(to_floats(tensor), ElementsAre(-2, -1, 0, 1, 2, 3));
  tensor.file->release(tensor.data);  // pages come back on the next read
  EXPECT_THAT(to_floats(tensor), ElementsAre(-2, -1, 0, 1, 2, 3));
}

TEST(Safetensors, WritesWhatItReads) {
  const TempFolder folder;
  const SafetensorsFile original = open_safetensors(data_path("types.safetensors"));
  const auto path = folder / "copy.safetensors";
  write_safetensors(path, original.weights.tensors(), original.metadata);
  const SafetensorsFile copy = open_safetensors(path);
  EXPECT_EQ(copy.metadata, original.metadata);
  ASSERT_EQ(copy.weights.tensors().size(), original.weights.tensors().size());
  for (const TensorView& tensor : original.weights.tensors()) {
    const TensorView& other = copy.weights.get(tensor.name);
    EXPECT_EQ(other.type, tensor.type);
    EXPECT_EQ(other.shape, tensor.shape);
    EXPECT_TRUE(
        std::equal(other.data.begin(), other.data.end(), tensor.data.begin(), tensor.data.end()))
        << tensor.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(other.data.data()) %
                  static_cast<uintptr_t>(block_bytes(other.type)),
              0u)
        << tensor.name;
  }
}

TEST(Safetensors, WritesAnEmptyFile) {
  const TempFolder folder;
  write_safetensors(folder / "none.safetensors", {});
  EXPECT_TRUE(open_safetensors(folder / "none.safetensors").weights.tensors().empty());
}

TEST(Safetensors, WriterRefusesAndLeavesNothing) {
  const TempFolder folder;
  const auto path = folder / "x.safetensors";
  const std::vector<float> values(32, 1.0f);
  const TensorView tensor = make_view("a", {32}, values);
  EXPECT_THAT(error_of([&] { write_safetensors(path, {tensor, tensor}); }), HasSubstr("'a'"));
  EXPECT_THAT(error_of([&] { write_safetensors(path, {make_view("__metadata__", {32}, values)}); }),
              HasSubstr("__metadata__"));
  EXPECT_THAT(error_of([&] {
                write_safetensors(path,
                                  {make_view("q", DType::Q8_0, {32}, std::vector<std::byte>(34))});
              }),
              AllOf(HasSubstr("'q'"), HasSubstr("Q8_0")));
  EXPECT_THAT(error_of([&] { write_safetensors(path, {make_view("\xff", {32}, values)}); }),
              HasSubstr("UTF-8"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Safetensors, MisalignedDataIsRead) {
  const TempFolder folder;
  const std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  const auto path = folder.write(
      "x.safetensors", raw(uint64_t{header.size()}) + header + "\x05" + raw(1.5f) + raw(-2.0f));
  const WeightFile weights = open_safetensors(path).weights;
  EXPECT_THAT(to_floats(weights.get("b")), ElementsAre(1.5f, -2.0f));
}

TEST(Safetensors, RefusesHostileHeaders) {
  const auto one = [](const std::string& entry) { return "{\"t\":" + entry + "}"; };
  EXPECT_THAT(refusal(""), HasSubstr("0 bytes"));
  EXPECT_THAT(refusal(raw(~uint64_t{0}) + "{}"), HasSubstr("header length"));
  EXPECT_THAT(refusal(raw(uint64_t{3}) + "{}"), HasSubstr("header length 3"));
  EXPECT_THAT(refusal(make_file("[]", 0)), HasSubstr("expected a JSON object"));
  EXPECT_THAT(refusal(make_file("{", 0)), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(make_file(std::string(1000, '['), 0)), HasSubstr("nested"));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]})"), 4)),
              AllOf(HasSubstr("'t'"), HasSubstr("F8_E4M3")));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"Q8_0","shape":[32],"data_offsets":[0,34]})"), 34)),
              HasSubstr("Q8_0"));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), 4)),
              HasSubstr("needs 8 bytes, data_offsets give 4"));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})"), 4)),
              HasSubstr("not inside the data"));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), 4)),
              HasSubstr("not inside the data"));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})"), 4)),
              HasSubstr("1 entries"));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), 4)),
              HasSubstr("shape holds -1"));
  EXPECT_THAT(refusal(make_file(one(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"), 4)),
              HasSubstr("shape holds 1.0"));
  EXPECT_THAT(
      refusal(make_file(
          one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"), 0)),
      HasSubstr("more elements than 2^63"));
  EXPECT_THAT(refusal(make_file(
                  one(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})"), 0)),
              HasSubstr("'t'"));
  EXPECT_THAT(refusal(make_file(one(R"({"shape":[1],"data_offsets":[0,4]})"), 4)),
              HasSubstr("'dtype'"));
  EXPECT_THAT(refusal(make_file(one("7"), 0)), HasSubstr("'t'"));
  EXPECT_THAT(refusal(make_file(R"({"__metadata__":{"a":1}})", 0)), HasSubstr("'a'"));
}

TEST(Safetensors, RefusesDuplicatesOverlapsAndHoles) {
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const auto b = [](int begin, int end) {
    return fmt::format(R"("b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", end - begin,
                       begin, end);
  };
  EXPECT_EQ(refusal(make_file("{" + a + "," + b(4, 6) + "}", 6)), "");
  EXPECT_THAT(refusal(make_file("{" + a + "," + a + "}", 4)),
              AllOf(HasSubstr("'a'"), HasSubstr("twice")));
  EXPECT_THAT(refusal(make_file("{" + a + "," + b(3, 6) + "}", 6)), HasSubstr("overlap"));
  EXPECT_THAT(refusal(make_file("{" + a + "," + b(5, 6) + "}", 6)), HasSubstr("hole"));
  EXPECT_THAT(refusal(make_file("{" + a + "," + b(4, 6) + "}", 9)), HasSubstr("3 bytes after"));
  EXPECT_THAT(refusal(make_file(fmt::format("{{{}}}", b(4, 6)), 6)), HasSubstr("hole"));
}

TEST(Safetensors, SurvivesEveryTruncationAndCorruption) {
  attack(data_path("types.safetensors"), [](const std::filesystem::path& path) {
    const SafetensorsFile file = open_safetensors(path);
    for (const TensorView& tensor : file.weights.tensors()) to_floats(tensor);
  });
}

class ShardedFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const auto& entry : std::filesystem::directory_iterator(data_path("sharded")))
      std::filesystem::copy(entry.path(), folder_.path());
  }
  void write_index(const std::string& map) {
    folder_.write(kIndex, R"({"weight_map":)" + map + "}");
  }
  std::string refusal() const {
    return error_of([&] { open_safetensors_index(folder_ / kIndex); });
  }
  static constexpr const char* kIndex = "model.safetensors.index.json";
  const TempFolder folder_;
};

TEST_F(ShardedFolder, IsReadAsOne) {
  const WeightFile weights = open_safetensors_index(folder_ / kIndex);
  EXPECT_EQ(weights.tensors().size(), 3u);
  EXPECT_THAT(to_floats(weights.get("a.bias")), ElementsAre(2, 2));
  EXPECT_THAT(to_floats(weights.get("b.weight")), ElementsAre(3, 3, 3, 3));
  EXPECT_THAT(weights.where(), HasSubstr(kIndex));
}

TEST_F(ShardedFolder, ListsAllThatIsWrong) {
  write_index(R"({"a.weight":"model-00001-of-00002.safetensors",
                  "a.none":"model-00001-of-00002.safetensors",
                  "c":"model-00003-of-00002.safetensors",
                  "d":"../secret.safetensors", "e":"/etc/passwd", "f":"..", "g":"", "h":7})");
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr(kIndex), HasSubstr("'a.none' is not in"),
                    HasSubstr("model-00003-of-00002.safetensors: can't be opened"),
                    HasSubstr("'../secret.safetensors' is not a plain file name"),
                    HasSubstr("'/etc/passwd' is not a plain file name"), HasSubstr("'..' is not"),
                    HasSubstr("'' is not"), HasSubstr("'h' does not name a file"),
                    Not(HasSubstr("'a.weight'"))));
}

TEST_F(ShardedFolder, IndexMustHaveAMap) {
  folder_.write(kIndex, "{}");
  EXPECT_THAT(refusal(), AllOf(HasSubstr(kIndex), HasSubstr("'weight_map'")));
}

}  // namespace
}  // namespace reprise
