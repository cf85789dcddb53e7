#include "formats/gguf.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string text(const std::string& s) { return raw(uint64_t{s.size()}) + s; }
std::string header(uint64_t tensors, uint64_t pairs, uint32_t version = 3) {
  return "GGUF" + raw(version) + raw(tensors) + raw(pairs);
}
std::string tensor_entry(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                         uint64_t offset) {
  std::string entry = text(name) + raw(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) entry += raw(dim);
  return entry + raw(type) + raw(offset);
}
std::string padded(std::string bytes, size_t data) {
  bytes.resize((bytes.size() + 31) / 32 * 32 + data);
  return bytes;
}

std::string refusal(const std::string& bytes) {
  const TempFolder folder;
  const auto path = folder.write("x.gguf", bytes);
  const std::string error = error_of([&] { open_gguf(path); });
  if (!error.empty()) {
    EXPECT_THAT(error, HasSubstr(path.string()));
  }
  return error;
}

TEST(Gguf, ReadsMetadataOfThePythonPackage) {
  const GgufFile file = open_gguf(data_path("small.gguf"));
  EXPECT_EQ(file.version, 3u);
  EXPECT_EQ(file.alignment, 32u);
  const GgufMetadata& m = file.metadata;
  EXPECT_EQ(m.get_string("general.architecture"), "llama");
  EXPECT_EQ(m.get_int("k.u8"), 200);
  EXPECT_EQ(m.get_int("k.i8"), -100);
  EXPECT_EQ(m.get_int("k.u16"), 60000);
  EXPECT_EQ(m.get_int("k.i16"), -30000);
  EXPECT_EQ(m.get_u32("k.u32"), 4000000000u);
  EXPECT_EQ(m.get_int("k.i32"), -2000000000);
  EXPECT_EQ(m.get_float("k.f32"), 0.5);
  EXPECT_TRUE(m.get_bool("k.bool"));
  EXPECT_EQ(m.get_string("k.string"), "grüße");
  EXPECT_EQ(std::get<uint64_t>(*m.find("k.u64")), (uint64_t{1} << 63) + 1);
  EXPECT_EQ(m.get_int("k.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(m.get_float("k.f64"), 0.1);
  EXPECT_THAT(m.get_strings("k.strings"), ElementsAre("a", "", "bc"));
  EXPECT_THAT(m.get_ints("k.ints"), ElementsAre(1, -2, 3));
  EXPECT_THAT(m.get_floats("k.floats"), ElementsAre(0.25f, -1.5f));
  EXPECT_THAT(m.get_bools("k.bools"), ElementsAre(true, false));
  const auto& nested = std::get<GgufArray>(*m.find("k.nested"));
  const auto& rows = std::get<std::vector<GgufArray>>(nested.items);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_THAT(std::get<std::vector<int32_t>>(rows[0].items), ElementsAre(1, 2));
  EXPECT_EQ(gguf_type_string(*m.find("k.strings")), "array of 3 string");
}

TEST(Gguf, MetadataErrorsNameFileKeyAndTypes) {
  const GgufFile file = open_gguf(data_path("small.gguf"));
  const GgufMetadata& m = file.metadata;
  const auto expect = [&](const auto& action, const char* key, const char* expected,
                          const char* found) {
    EXPECT_THAT(error_of(action), AllOf(HasSubstr("small.gguf"), HasSubstr(key),
                                        HasSubstr(expected), HasSubstr(found)));
  };
  expect([&] { m.get_int("k.none"); }, "'k.none'", "an integer", "missing");
  expect([&] { m.get_int("k.f32"); }, "'k.f32'", "an integer", "found f32");
  expect([&] { m.get_int("k.bool"); }, "'k.bool'", "an integer", "found bool");
  expect([&] { m.get_int("k.u64"); }, "'k.u64'", "an integer", "found u64");
  expect([&] { m.get_int("k.u8", 0, 100); }, "'k.u8'", "0 to 100", "found 200");
  expect([&] { m.get_u32("k.i8"); }, "'k.i8'", "expected 0", "found -100");
  expect([&] { m.get_float("k.string"); }, "'k.string'", "a number", "found string");
  expect([&] { m.get_bool("k.u8"); }, "'k.u8'", "a bool", "found u8");
  expect([&] { m.get_string("k.strings"); }, "'k.strings'", "a string", "array of 3 string");
  expect([&] { m.get_strings("k.string"); }, "'k.string'", "an array of strings", "found string");
  expect([&] { m.get_ints("k.floats"); }, "'k.floats'", "an array of integers", "array of 2 f32");
  expect([&] { m.get_floats("k.ints"); }, "'k.ints'", "an array of f32", "array of 3 i32");
  expect([&] { m.get_bools("k.ints"); }, "'k.ints'", "an array of bools", "array of 3 i32");
  EXPECT_EQ(m.find_int("k.none"), std::nullopt);
  EXPECT_EQ(m.find_int("k.u8"), 200);
  EXPECT_EQ(m.find_string("k.none"), std::nullopt);
  EXPECT_EQ(m.find_bool("k.bool"), true);
  EXPECT_EQ(m.find_float("k.f64"), 0.1);
  EXPECT_NE(error_of([&] { m.find_int("k.string"); }), "");
}

TEST(Gguf, ReadsTensorsOfThePythonPackage) {
  const GgufFile file = open_gguf(data_path("small.gguf"));
  const WeightFile& weights = file.weights;
  EXPECT_THAT(names_of(weights),
              ElementsAre("f32", "f16", "norm", "cube", "bf16", "q8_0", "q4_0", "q4_1"));
  EXPECT_EQ(weights.get("f32").shape, (Shape{3, 64}));
  EXPECT_EQ(weights.get("cube").shape, (Shape{2, 3, 4}));
  EXPECT_EQ(to_floats(weights.get("cube"))[23], 23.0f);
  EXPECT_THAT(to_floats(weights.get("norm")), ElementsAre(0, 1, 2, 3, 4));
  const std::vector<float> exact = to_floats(weights.get("f32"));
  const std::vector<std::pair<std::string, float>> errors = {
      {"f16", 1e-3f}, {"bf16", 1e-2f}, {"q8_0", 2e-2f}, {"q4_0", 0.5f}, {"q4_1", 0.3f}};
  for (const auto& [name, error] : errors) {
    const TensorView& tensor = weights.get(name);
    EXPECT_EQ(tensor.shape, (Shape{3, 64})) << name;
    const std::vector<float> values = to_floats(tensor);
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_NEAR(values[i], exact[i], error) << name << " " << i;
  }
}

TEST(Gguf, WritesWhatItReads) {
  const TempFolder folder;
  const GgufFile original = open_gguf(data_path("small.gguf"));
  std::vector<GgufTensor> tensors;
  for (const TensorView& tensor : original.weights.tensors())
    tensors.push_back({tensor, tensor.type});
  const auto path = folder / "copy.gguf";
  write_gguf(path, original.metadata, tensors);
  // The same keys, tensors and padding: the same file as the Python package wrote.
  EXPECT_EQ(read_file(path), read_file(data_path("small.gguf")));
}

TEST(Gguf, ConvertsWhileWriting) {
  const TempFolder folder;
  const GgufFile original = open_gguf(data_path("small.gguf"));
  const TensorView& source = original.weights.get("f32");
  std::vector<GgufTensor> tensors;
  std::vector<std::string> judges = {"f16", "bf16", "q8_0", "q4_0", "q4_1"};
  for (const std::string& judge : judges) {
    TensorView renamed = source;
    renamed.name = judge;
    tensors.push_back({renamed, original.weights.get(judge).type});
  }
  GgufMetadata metadata;
  metadata.set("general.alignment", uint32_t{64});
  metadata.set("tokens", std::vector<std::string>{"x", "y"});
  metadata.set("tokens", std::vector<std::string>{"z"});  // replaces
  write_gguf(folder / "x.gguf", metadata, tensors);
  const GgufFile file = open_gguf(folder / "x.gguf");
  EXPECT_EQ(file.alignment, 64u);
  EXPECT_THAT(file.metadata.get_strings("tokens"), ElementsAre("z"));
  for (const std::string& judge : judges) {
    const auto& expected = original.weights.get(judge);
    const auto& found = file.weights.get(judge);
    EXPECT_EQ(found.type, expected.type);
    EXPECT_EQ((found.data.data() - file.weights.tensors()[0].data.data()) % 64, 0);
    EXPECT_TRUE(std::equal(found.data.begin(), found.data.end(), expected.data.begin(),
                           expected.data.end()))
        << judge;
  }
}

TEST(Gguf, WriterRefusesAndLeavesNothing) {
  const TempFolder folder;
  const auto path = folder / "x.gguf";
  std::vector<float> values(48, 1.0f);
  const TensorView odd = make_view("odd", {48}, values);
  EXPECT_THAT(error_of([&] {
                write_gguf(path, GgufMetadata(), {{odd, DType::Q8_0}});
              }),
              AllOf(HasSubstr("'odd'"), HasSubstr(path.string())));
  EXPECT_THAT(error_of([&] {
                write_gguf(path, GgufMetadata(), {{odd, DType::I32}});
              }),
              AllOf(HasSubstr("'odd'"), HasSubstr("I32")));
  EXPECT_THAT(error_of([&] {
                write_gguf(path, GgufMetadata(), {{odd, DType::F32}, {odd, DType::F32}});
              }),
              HasSubstr("twice"));
  EXPECT_THAT(error_of([&] {
                write_gguf(path, GgufMetadata(),
                           {{make_view("deep", {1, 1, 1, 1, 48}, values), DType::F32}});
              }),
              HasSubstr("'deep'"));
  values[40] = std::nanf("");  // found only while the data is streamed
  values.resize(64);
  EXPECT_THAT(error_of([&] {
                write_gguf(path, GgufMetadata(), {{make_view("bad", {64}, values), DType::Q8_0}});
              }),
              AllOf(HasSubstr("'bad'"), HasSubstr(path.string())));
  GgufMetadata metadata;
  metadata.set("general.alignment", uint32_t{48});
  EXPECT_THAT(error_of([&] { write_gguf(path, metadata, {}); }), HasSubstr("power of two"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Gguf, ReadsVersion2AndEmptyFiles) {
  const TempFolder folder;
  const auto path = folder.write("v2.gguf", header(0, 0, 2));
  EXPECT_EQ(open_gguf(path).version, 2u);
  EXPECT_TRUE(open_gguf(path).weights.tensors().empty());
}

TEST(Gguf, RefusesOtherFiles) {
  EXPECT_THAT(refusal(""), HasSubstr("not a GGUF file"));
  EXPECT_THAT(refusal("GGML" + header(0, 0)), HasSubstr("not a GGUF file"));
  EXPECT_THAT(refusal(header(0, 0, 1)), HasSubstr("version 1"));
  EXPECT_THAT(refusal(header(0, 0, 4)), HasSubstr("version 4"));
  EXPECT_THAT(refusal(header(0, 0, 0x03000000)), HasSubstr("big-endian"));
}

TEST(Gguf, RefusesHugeClaimsWithoutAllocating) {
  const uint64_t huge = uint64_t{1} << 60;
  EXPECT_THAT(refusal(header(huge, 0)), HasSubstr("tensors"));
  EXPECT_THAT(refusal(header(0, huge)), HasSubstr("metadata pairs"));
  EXPECT_THAT(refusal(header(0, 1) + raw(huge) + std::string(64, 'x')), HasSubstr("metadata key"));
  const std::string pair = header(0, 1) + text("key");
  EXPECT_THAT(refusal(pair + raw(uint32_t{8}) + raw(huge) + "x"), HasSubstr("key"));
  for (uint32_t type = 0; type < 13; ++type)
    EXPECT_THAT(refusal(pair + raw(uint32_t{9}) + raw(type) + raw(huge) + std::string(64, 'x')),
                AllOf(HasSubstr("'key'"), HasSubstr("claims")))
        << type;
  EXPECT_THAT(refusal(header(1, 0) + tensor_entry("t", {huge, huge}, 0, 0)),
              AllOf(HasSubstr("'t'"), HasSubstr("more elements")));
  EXPECT_THAT(refusal(header(1, 0) + tensor_entry("t", {~uint64_t{0}}, 0, 0)),
              AllOf(HasSubstr("'t'"), HasSubstr("too large")));
  EXPECT_THAT(refusal(header(1, 0) + tensor_entry("t", {huge}, 0, 0)),
              AllOf(HasSubstr("'t'"), HasSubstr("not inside the data")));
}

TEST(Gguf, RefusesBadMetadata) {
  const std::string pair = header(0, 1) + text("key");
  EXPECT_THAT(refusal(pair + raw(uint32_t{13}) + raw(uint64_t{0})),
              AllOf(HasSubstr("'key'"), HasSubstr("type number 13")));
  EXPECT_THAT(refusal(pair + raw(uint32_t{9}) + raw(uint32_t{99}) + raw(uint64_t{0})),
              HasSubstr("type number 99"));
  EXPECT_THAT(refusal(pair + raw(uint32_t{7}) + "\x02"), HasSubstr("a bool is 2"));
  std::string nested = pair + raw(uint32_t{9});
  for (int depth = 0; depth < 100000; ++depth) nested += raw(uint32_t{9}) + raw(uint64_t{1});
  EXPECT_THAT(refusal(nested), HasSubstr("nested deeper"));
  const std::string one = text("key") + raw(uint32_t{0}) + "\x01";
  EXPECT_THAT(refusal(header(0, 2) + one + one), AllOf(HasSubstr("'key'"), HasSubstr("twice")));
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 31})
    EXPECT_THAT(
        refusal(header(0, 1) + text("general.alignment") + raw(uint32_t{4}) + raw(alignment)),
        AllOf(HasSubstr("'general.alignment'"), HasSubstr("power of two")));
  EXPECT_THAT(refusal(header(0, 1) + text("general.alignment") + raw(uint32_t{8}) + text("32")),
              HasSubstr("expected an integer"));
}

TEST(Gguf, RefusesBadTensors) {
  const auto file = [](const std::string& entries, uint64_t count, size_t data) {
    return padded(header(count, 0) + entries, data);
  };
  const std::string a = tensor_entry("a", {8}, 0, 0);
  EXPECT_EQ(refusal(file(a + tensor_entry("b", {8}, 0, 32), 2, 64)), "");
  EXPECT_THAT(refusal(file(a + a, 2, 64)), HasSubstr("overlap"));
  EXPECT_THAT(refusal(file(a + tensor_entry("a", {8}, 0, 32), 2, 64)), HasSubstr("twice"));
  EXPECT_THAT(refusal(file(tensor_entry("a", {16}, 0, 0) + tensor_entry("b", {8}, 0, 32), 2, 64)),
              AllOf(HasSubstr("'a'"), HasSubstr("'b'"), HasSubstr("overlap")));
  EXPECT_THAT(refusal(file(tensor_entry("a", {8}, 0, 16), 1, 64)), HasSubstr("alignment"));
  EXPECT_THAT(refusal(file(a, 1, 31)), HasSubstr("not inside the data"));
  EXPECT_THAT(refusal(file(tensor_entry("a", {8}, 0, ~uint64_t{31}), 1, 64)),
              HasSubstr("not inside the data"));
  EXPECT_THAT(refusal(file(tensor_entry("q", {48}, 8, 0), 1, 64)),
              AllOf(HasSubstr("'q'"), HasSubstr("multiple of 32")));
  EXPECT_THAT(refusal(file(tensor_entry("q", {288}, 12, 0), 1, 192)),
              AllOf(HasSubstr("'q'"), HasSubstr("multiple of 256"), HasSubstr("Q4_K")));
  EXPECT_THAT(refusal(file(tensor_entry("q", {512}, 14, 0), 1, 416)),
              AllOf(HasSubstr("'q'"), HasSubstr("not inside the data")));
  EXPECT_THAT(refusal(file(tensor_entry("k", {256}, 16, 0), 1, 96)),
              AllOf(HasSubstr("'k'"), HasSubstr("IQ2_XXS"), HasSubstr("not supported"),
                    HasSubstr(names_with_quantized({DType::I64}))));
  EXPECT_THAT(refusal(file(tensor_entry("k", {256}, 4, 0), 1, 64)), HasSubstr("type number 4"));
  EXPECT_THAT(refusal(file(tensor_entry("d", {1, 1, 1, 1, 1}, 0, 0), 1, 64)),
              AllOf(HasSubstr("'d'"), HasSubstr("5 dimensions")));
}

TEST(Gguf, SurvivesEveryTruncationAndCorruption) {
  attack(
      data_path("small.gguf"),
      [](const std::filesystem::path& path) {
        const GgufFile file = open_gguf(path);
        for (const TensorView& tensor : file.weights.tensors()) to_floats(tensor);
      },
      /*whole_only=*/false);
}

}  // namespace
}  // namespace reprise
