#include "formats/pickle.h"

#include <gmock/gmock.h>
#include <zlib.h>

#include <cstdlib>

#include "formats/zip.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A zip archive of stored entries, made here so that tests can put anything into it.
std::string make_zip(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string data;
  std::string directory;
  for (const auto& [name, content] : entries) {
    const auto crc = static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(content.data()),
                                                 static_cast<uInt>(content.size())));
    const auto size = static_cast<uint32_t>(content.size());
    const std::string common = raw(uint16_t{20}) + raw(uint16_t{0}) + raw(uint16_t{0}) +
                               raw(uint32_t{0}) + raw(crc) + raw(size) + raw(size) +
                               raw(static_cast<uint16_t>(name.size())) + raw(uint16_t{0});
    directory += raw(uint32_t{0x02014b50}) + raw(uint16_t{20}) + common + std::string(10, '\0') +
                 raw(static_cast<uint32_t>(data.size())) + name;
    data += raw(uint32_t{0x04034b50}) + common + name + content;
  }
  const auto count = static_cast<uint16_t>(entries.size());
  return data + directory + raw(uint32_t{0x06054b50}) + raw(uint32_t{0}) + raw(count) + raw(count) +
         raw(static_cast<uint32_t>(directory.size())) + raw(static_cast<uint32_t>(data.size())) +
         raw(uint16_t{0});
}

// Pieces of pickle programs.
std::string str(const std::string& s) {
  return std::string("X") + raw(static_cast<uint32_t>(s.size())) + s;
}
std::string num(int32_t n) { return std::string("J") + raw(n); }
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string storage(int32_t count, const std::string& type = "FloatStorage") {
  return std::string("(") + str("storage") + global("torch", type) + str("0") + str("cpu") +
         num(count) + "tQ";
}
// A tensor of 4 floats in storage "0" with these offset, shape and strides (as programs).
std::string tensor(const std::string& offset, const std::string& shape, const std::string& strides,
                   int32_t count = 4) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage(count) + offset + shape +
         strides + "\x89" + global("collections", "OrderedDict") + ")R" + "tR";
}
const std::string kProto = "\x80\x02";

class Program : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& program) {
    return folder_.write("x.pt",
                         make_zip({{"x/data.pkl", program},
                                   {"x/data/0", raw(1.f) + raw(2.f) + raw(3.f) + raw(4.f)}}));
  }
  // What open_pt says about a program; "" when it is accepted.
  std::string refusal(const std::string& program) {
    const auto path = file(program);
    const std::string error = error_of([&] { open_pt(path); });
    if (!error.empty()) {
      EXPECT_THAT(error, HasSubstr(path.string()));
    }
    return error;
  }
  std::string dict(const std::string& value) { return kProto + "}" + str("t") + value + "s."; }

  const TempFolder folder_;
};

TEST(Pickle, ReadsAStateDict) {
  for (const char* name : {"state_dict.pt", "deflated.pt", "zip64.pt"}) {
    const WeightFile weights = open_pt(data_path(name));
    EXPECT_THAT(names_of(weights), ElementsAre("0.weight", "0.bias", "1.weight", "1.bias")) << name;
    EXPECT_EQ(weights.get("1.weight").shape, (Shape{1, 4}));
    EXPECT_THAT(to_floats(weights.get("0.weight")), ElementsAre(0.5, -1, 2, 0.25));
    EXPECT_THAT(to_floats(weights.get("1.bias")), ElementsAre(0.125));
    // Both gates are one module: its data is stored once.
    EXPECT_EQ(weights.get("0.weight").data.data(), weights.get("1.weight").data.data());
  }
}

TEST(Pickle, ReadsAllTypes) {
  const WeightFile weights = open_pt(data_path("types.pt"));
  const std::vector<std::pair<std::string, DType>> types = {
      {"float64", DType::F64},   {"float32", DType::F32}, {"float16", DType::F16},
      {"bfloat16", DType::BF16}, {"int64", DType::I64},   {"int32", DType::I32},
      {"int16", DType::I16},     {"int8", DType::I8},     {"uint8", DType::U8}};
  for (const auto& [name, type] : types) {
    EXPECT_EQ(weights.get(name).type, type);
    EXPECT_THAT(to_floats(weights.get(name)), ElementsAre(0, 1, 2, 3, 4, 5)) << name;
  }
  EXPECT_EQ(weights.get("bool").type, DType::Bool);
  EXPECT_THAT(to_ints(weights.get("bool")), ElementsAre(0, 1, 1, 1, 1, 1));
}

TEST(Pickle, ReadsStridedTensorsRowMajor) {
  const WeightFile weights = open_pt(data_path("strided.pt"));
  const auto& transposed = weights.get("transposed");  // of 0..23 as [4, 6]
  EXPECT_EQ(transposed.shape, (Shape{6, 4}));
  const std::vector<float> values = to_floats(transposed);
  for (int i = 0; i < 6; ++i)
    for (int j = 0; j < 4; ++j) EXPECT_EQ(values[i * 4 + j], static_cast<float>(j * 6 + i));
  EXPECT_THAT(to_floats(weights.get("column")), ElementsAre(1, 7, 13, 19));
  EXPECT_THAT(to_floats(weights.get("block")), ElementsAre(8, 9, 10, 14, 15, 16));
  EXPECT_THAT(to_floats(weights.get("slice")), ElementsAre(12, 13, 14, 15, 16, 17));
  EXPECT_THAT(to_floats(weights.get("scalar")), ElementsAre(3));
  EXPECT_EQ(weights.get("scalar").shape, Shape{});
  EXPECT_EQ(weights.get("empty").shape, (Shape{0, 3}));
  EXPECT_THAT(to_floats(weights.get("expanded")), ElementsAre(7, 7, 7, 7, 7, 7));
}

TEST(Pickle, ReadsParametersAndProtocol4) {
  EXPECT_THAT(to_floats(open_pt(data_path("protocol4.pt")).get("w")), ElementsAre(1, 2));
}

TEST(Pickle, RefusesOtherObjectsByName) {
  EXPECT_THAT(error_of([] { open_pt(data_path("evil.pt")); }),
              AllOf(HasSubstr("evil.pt"), HasSubstr("'posix.system'")));
  EXPECT_THAT(error_of([] { open_pt(data_path("not_a_tensor.pt")); }),
              AllOf(HasSubstr("not_a_tensor.pt"), HasSubstr("'epoch'"), HasSubstr("an int")));
  EXPECT_THAT(error_of([] { open_pt(data_path("legacy.pt")); }),
              AllOf(HasSubstr("legacy.pt"), HasSubstr("not a zip archive")));
}

TEST(Pickle, SurvivesEveryTruncationAndCorruption) {
  for (const char* name : {"state_dict.pt", "deflated.pt", "zip64.pt", "strided.pt"}) {
    attack(data_path(name), [](const std::filesystem::path& path) {
      const WeightFile weights = open_pt(path);
      for (const TensorView& tensor : weights.tensors()) to_floats(tensor);
    });
  }
}

TEST_F(Program, SurvivesEveryCorruptionWithRightChecksums) {
  // As above, but past the checksum: the program itself is corrupted.
  const std::string program =
      dict(tensor(num(0), num(2) + num(2) + "\x86", num(1) + num(2) + "\x86"));
  ASSERT_EQ(refusal(program), "");
  EXPECT_THAT(to_floats(open_pt(file(program)).get("t")), ElementsAre(1, 3, 2, 4));
  for (size_t at = 0; at < program.size(); ++at) {
    for (int value = 0; value < 256; value += at < 40 ? 1 : 5) {
      std::string changed = program;
      changed[at] = static_cast<char>(value);
      const std::string zip =
          make_zip({{"x/data.pkl", changed}, {"x/data/0", std::string(16, 'x')}});
      std::ofstream(folder_ / "y.pt", std::ios::binary) << zip;
      error_of([&] {
        for (const TensorView& view : open_pt(folder_ / "y.pt").tensors()) to_floats(view);
      });
    }
  }
}

TEST_F(Program, RefusesGlobalsInEveryForm) {
  EXPECT_THAT(refusal(kProto + global("os", "system") + "."), HasSubstr("'os.system'"));
  EXPECT_THAT(refusal("\x80\x04" + str("builtins") + str("eval") + "\x93."),
              HasSubstr("'builtins.eval'"));
  EXPECT_THAT(refusal(kProto + global("torch", "FloatStorage.x") + "."), HasSubstr("refused"));
  EXPECT_THAT(refusal(kProto + global("torch._utils", "_rebuild_tensor") + "."),
              HasSubstr("'torch._utils._rebuild_tensor'"));
  EXPECT_THAT(refusal(kProto + "i" + "os\nsystem\n."), HasSubstr("opcode 0x69"));
  EXPECT_THAT(refusal(kProto + "}\x81."), HasSubstr("opcode 0x81"));
  EXPECT_THAT(refusal(kProto + global("torch", "FloatStorage") + ")R."), HasSubstr("is called"));
  EXPECT_THAT(refusal("\x80\x01}."), HasSubstr("protocol 1"));
}

TEST_F(Program, RefusesBrokenStacks) {
  const std::string empty = "the stack is empty";
  for (const char* op : {"s", "a", "0", "2", "Q", "R", "b", "\x85", "q\x01", "\x94", "u", "t", "1"})
    EXPECT_NE(refusal(kProto + op + "."), "") << op;
  EXPECT_THAT(refusal(kProto + "h\x05."), HasSubstr("memo 5"));
  EXPECT_THAT(refusal(kProto + "."), HasSubstr("leaves 0 values"));
  EXPECT_THAT(refusal(kProto + "}}."), HasSubstr("leaves 2 values"));
  EXPECT_THAT(refusal(kProto + "]."), AllOf(HasSubstr("a dict"), HasSubstr("a list")));
  EXPECT_THAT(refusal(kProto + "}"), HasSubstr("opcode"));
  EXPECT_THAT(refusal(kProto + "}(" + str("a") + "u."), HasSubstr("lacks its value"));
  EXPECT_THAT(refusal(kProto + "}(s."), HasSubstr(empty));
  EXPECT_THAT(refusal(kProto + "}" + num(1) + num(2) + "s."), HasSubstr("key of the dict"));
  EXPECT_THAT(refusal(kProto + "}" + str("foo") + "X\xff\xff\xff\xff" + "a"), HasSubstr("string"));
  EXPECT_THAT(refusal(kProto + "\x8d" + raw(~uint64_t{0})), HasSubstr("string"));
  EXPECT_THAT(refusal(kProto + "\x95" + raw(~uint64_t{0})), HasSubstr("frame"));
  EXPECT_THAT(refusal(kProto + "\x8a\x09" + std::string(9, '\1') + "."), HasSubstr("too large"));
  EXPECT_THAT(refusal(kProto + "}}" + str("x") + "Ns" + "b."), HasSubstr("sets attribute 'x'"));
  EXPECT_EQ(refusal(kProto + "}}" + str("_metadata") + "Ns" + "b."), "");
  const std::string t = tensor(num(0), num(4) + "\x85", num(1) + "\x85");
  EXPECT_EQ(refusal(dict(t)), "");
  EXPECT_THAT(refusal(kProto + "}(" + str("t") + t + str("t") + t + "u."), HasSubstr("twice"));
}

TEST_F(Program, ChecksTensorsAgainstTheirStorage) {
  const auto one = [](int32_t n) { return num(n) + "\x85"; };
  const auto two = [](int32_t a, int32_t b) { return num(a) + num(b) + "\x86"; };
  const std::string big = "\x8a\x08" + raw(INT64_MAX);
  EXPECT_EQ(refusal(dict(tensor(num(1), one(3), one(1)))), "");
  EXPECT_EQ(refusal(dict(tensor(num(9), one(0), one(1)))), "");
  EXPECT_THAT(refusal(dict(tensor(num(1), one(4), one(1)))), HasSubstr("outside its storage"));
  EXPECT_THAT(refusal(dict(tensor(num(0), one(2), one(4)))), HasSubstr("outside its storage"));
  EXPECT_THAT(refusal(dict(tensor(num(0), two(2, 2), two(3, 1)))),
              HasSubstr("outside its storage"));
  EXPECT_THAT(refusal(dict(tensor(num(-1), one(2), one(1)))), HasSubstr("negative"));
  EXPECT_THAT(refusal(dict(tensor(num(3), one(2), one(-1)))), HasSubstr("negative"));
  EXPECT_THAT(refusal(dict(tensor(num(0), one(-2), one(1)))), HasSubstr("negative"));
  EXPECT_THAT(refusal(dict(tensor(num(0), one(2), two(1, 1)))), HasSubstr("strides"));
  EXPECT_THAT(refusal(dict(tensor(big, one(2), one(1)))), HasSubstr("outside its storage"));
  EXPECT_THAT(refusal(dict(tensor(num(0), big + "\x85", big + "\x85"))), HasSubstr("2^63"));
  EXPECT_THAT(refusal(dict(tensor(num(0), one(1 << 30), big + "\x85"))),
              HasSubstr("outside its storage"));
  EXPECT_THAT(refusal(dict(tensor(num(0), big + big + "\x86", two(0, 0)))), HasSubstr("2^63"));
  // Expanded (stride 0): as large as it likes, so bounded.
  EXPECT_THAT(refusal(dict(tensor(num(0), num(1 << 30) + "\x85", one(0)))),
              AllOf(HasSubstr("'t'"), HasSubstr("strided")));
  EXPECT_THAT(refusal(dict(tensor(num(0), one(4), one(1), 5))),
              AllOf(HasSubstr("'t'"), HasSubstr("16 bytes, expected 20")));
  EXPECT_THAT(refusal(dict(storage(4))), HasSubstr("a storage"));
  EXPECT_THAT(refusal(dict(storage(-4))), HasSubstr("negative"));
}

TEST_F(Program, SharedAndCyclicStructuresCostNothing) {
  // A tuple of two of the one before, 60 levels deep: 2^60 leaves for whoever walks it.
  std::string bomb = kProto + "}" + str("t") + "N";
  for (int level = 0; level < 60; ++level) bomb += "2\x86";
  EXPECT_THAT(refusal(bomb + "s."), AllOf(HasSubstr("'t'"), HasSubstr("a tuple")));
  // A dict that is its own value.
  EXPECT_THAT(refusal(kProto + "}q\x01" + str("t") + "h\x01s."), HasSubstr("a dict"));
  // Marks and tuples nested a hundred thousand deep.
  EXPECT_NE(refusal(kProto + std::string(100000, '(') + std::string(100000, 't') + "."), "");
}

TEST_F(Program, ArchivesMustBeWhole) {
  const auto say = [&](const std::vector<std::pair<std::string, std::string>>& entries) {
    const auto path = folder_.write("z.pt", make_zip(entries));
    return error_of([&] { open_pt(path); });
  };
  const std::string program = dict(tensor(num(0), num(4) + "\x85", num(1) + "\x85"));
  const std::string floats(16, '\0');
  EXPECT_EQ(say({{"x/data.pkl", program}, {"x/data/0", floats}, {"x/byteorder", "little"}}), "");
  EXPECT_THAT(say({{"x/data.pkl", program}}), HasSubstr("storage '0' is missing"));
  EXPECT_THAT(say({{"readme", ""}}), HasSubstr("no data.pkl"));
  EXPECT_THAT(say({{"x/data.pkl", program}, {"y/data.pkl", program}}), HasSubstr("both"));
  EXPECT_THAT(say({{"x/data.pkl", program}, {"x/data.pkl", program}}), HasSubstr("twice"));
  EXPECT_THAT(say({{"x/data.pkl", program}, {"x/data/0", floats}, {"x/byteorder", "big"}}),
              HasSubstr("little-endian"));
}

TEST(Zip, RefusesBombsAndDamage) {
  const TempFolder folder;
  // A deflated entry whose directory claims far more than deflate can give.
  std::string bytes = read_file(data_path("deflated.pt"));
  const size_t entry = bytes.find(raw(uint32_t{0x02014b50}));
  ASSERT_NE(entry, std::string::npos);
  const auto with_size = [&](uint32_t size) {
    std::string changed = bytes;
    changed.replace(entry + 24, 4, raw(size));
    ZipArchive zip = ZipArchive::open(folder.write("z.zip", changed));
    return error_of([&] { zip.read(zip.entries()[0]); });
  };
  ZipArchive zip = ZipArchive::open(data_path("deflated.pt"));
  const auto size = static_cast<uint32_t>(zip.entries()[0].bytes);
  EXPECT_EQ(with_size(size), "");
  EXPECT_THAT(with_size(0xfffffffe), HasSubstr("refused"));
  EXPECT_THAT(with_size(1u << 29), HasSubstr("refused"));
  EXPECT_THAT(with_size(size + 1), HasSubstr("does not inflate"));
  EXPECT_THAT(with_size(size - 1), HasSubstr("does not inflate"));
  EXPECT_THAT(with_size(0), HasSubstr("does not inflate"));

  std::string flipped = read_file(data_path("state_dict.pt"));
  flipped[flipped.find("_rebuild_tensor")] ^= 1;
  const auto path = folder.write("flipped.pt", flipped);
  EXPECT_THAT(error_of([&] { open_pt(path); }), HasSubstr("checksum"));
}

}  // namespace
}  // namespace reprise
