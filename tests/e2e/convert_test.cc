// convert and quantize: the way there and back, and what users get wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "formats/gguf_writer.h"
#include "formats/hf_folder.h"
#include "formats/pickle.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

std::vector<std::string> names_of(const WeightFile& file) {
  std::vector<std::string> names;
  for (const TensorView& tensor : file.tensors()) names.push_back(tensor.name);
  return names;
}

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

class ConvertTest : public ::testing::Test {
 protected:
  ConvertTest() {
    copy_model("trol/phi3-vit", model_);
    std::filesystem::permissions(model_, std::filesystem::perms::owner_all);
    for (const auto& entry : std::filesystem::directory_iterator(model_))
      std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_all);
  }
  static ProgramResult expect_ok(const std::vector<std::string>& arguments) {
    ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << ::testing::PrintToString(arguments) << result.err;
    return result;
  }
  static void expect_error(const std::vector<std::string>& arguments,
                           const ::testing::Matcher<std::string>& message,
                           const ProgramOptions& options = {}) {
    const ProgramResult result = run_program(arguments, options);
    EXPECT_EQ(result.exit_code, 1) << ::testing::PrintToString(arguments) << result.out;
    EXPECT_THAT(result.err, AllOf(StartsWith("reprise: error: "), message));
  }
  // Names in the test's folder, so that nothing can be left over unseen.
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
      list.push_back(entry.path().filename().string());
    return list;
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  TempFolder folder_;
  const std::filesystem::path model_ = folder_ / "model";
};

TEST_F(ConvertTest, ThereAndBackWithEveryFile) {
  using namespace std::string_literals;
  const std::string binary = "\x08\x01\xff\x00 not text"s;
  write_file_atomically(model_ / "tokenizer.model", binary);
  write_file_atomically(model_ / "tokenization_x.py", "print('remote code')\n");
  const std::string config = read_file(model_ / "config.json");
  expect_ok({"convert", model_.string(), path("m.gguf")});
  expect_ok({"convert", path("m.gguf"), path("back"), "--shard-size", "300KB"});
  std::vector<std::string> expected, found;
  for (const auto& entry : std::filesystem::directory_iterator(model_))
    if (entry.path().extension() != ".safetensors")
      expected.push_back(entry.path().filename().string());
  for (const auto& entry : std::filesystem::directory_iterator(path("back"))) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".safetensors") continue;
    if (name != "model.safetensors.index.json") found.push_back(name);
    if (name != "model.safetensors.index.json" && name != "trol_gating.pt") {
      EXPECT_EQ(read_file(entry.path()), read_file(model_ / name)) << name;
    }
  }
  EXPECT_THAT(found, ::testing::UnorderedElementsAreArray(expected));
  EXPECT_EQ(read_file(folder_ / "back/config.json"), config);
  const WeightFile a = HfFolder::open(model_).weights, b = HfFolder::open(path("back")).weights;
  EXPECT_THAT(names_of(b), ::testing::UnorderedElementsAreArray(names_of(a)));
  const WeightFile gate = open_pt(folder_ / "back/trol_gating.pt");
  EXPECT_THAT(names_of(gate),
              ::testing::UnorderedElementsAreArray(names_of(open_pt(model_ / "trol_gating.pt"))));
  // The GGUF file runs by itself, text included.
  EXPECT_THAT(expect_ok({"run", path("m.gguf"), "--raw", "--prompt", "a", "--max-tokens", "2"}).out,
              ::testing::Not(::testing::IsEmpty()));
  EXPECT_THAT(names(), UnorderedElementsAre("model", "m.gguf", "back"));
}

TEST_F(ConvertTest, TypesAndJson) {
  const ProgramResult half =
      expect_ok({"convert", model_.string(), path("m.gguf"), "--type", "bf16", "--json"});
  const Json report = Json::parse(half.out);
  EXPECT_LT(report["bytes"], report["source_bytes"]);
  EXPECT_EQ(open_gguf(path("m.gguf")).weights.get("trol_gating.weight").type, DType::F32);
  expect_ok({"convert", path("m.gguf"), path("back"), "--type", "f16"});
  const HfFolder back = HfFolder::open(path("back"));
  EXPECT_EQ(back.weights.get("language_model.model.layers.0.mlp.down_proj.weight").type,
            DType::F16);
  EXPECT_EQ((*back.config)["torch_dtype"], "float16");
  expect_ok({"convert", model_.string(), path("q.gguf"), "--type", "q8_0", "--keep",
             "*.down_proj.weight=f16"});
  const GgufFile quantized = open_gguf(path("q.gguf"));
  EXPECT_EQ(quantized.weights.get("language_model.model.layers.0.mlp.down_proj.weight").type,
            DType::F16);
  EXPECT_EQ(quantized.weights.get("language_model.model.layers.0.self_attn.o_proj.weight").type,
            DType::Q8_0);
  // Quantized values come back as floats, exactly.
  expect_ok({"convert", path("q.gguf"), path("floats")});
  const std::string name = "language_model.model.layers.0.self_attn.o_proj.weight";
  EXPECT_EQ(to_floats(HfFolder::open(path("floats")).weights.get(name)),
            to_floats(quantized.weights.get(name)));
}

TEST_F(ConvertTest, OverwritesOnlyWhenForced) {
  write_file_atomically(path("m.gguf"), "older");
  expect_error({"convert", model_.string(), path("m.gguf")},
               AllOf(HasSubstr("m.gguf: exists already"), HasSubstr("--force")));
  EXPECT_EQ(read_file(path("m.gguf")), "older");
  expect_ok({"convert", model_.string(), path("m.gguf"), "--force"});
  copy_model("rrt/llama", path("back"));
  expect_error({"convert", path("m.gguf"), path("back")}, HasSubstr("exists already"));
  expect_ok({"convert", path("m.gguf"), path("back"), "--force"});
  EXPECT_EQ(read_file(folder_ / "back/config.json"), read_file(model_ / "config.json"));
  // A folder that is no model is nobody's to delete.
  std::filesystem::create_directory(path("home"));
  write_file_atomically(folder_ / "home/thesis.txt", "years of work");
  expect_error({"convert", path("m.gguf"), path("home"), "--force"}, HasSubstr("no config.json"));
  EXPECT_EQ(read_file(folder_ / "home/thesis.txt"), "years of work");
  for (const std::string& same : {path("m.gguf"), path("model")})
    expect_error(
        {"convert", same, same, "--force", "--to", same == path("model") ? "folder" : "gguf"},
        HasSubstr("is the model to be converted"));
}

TEST_F(ConvertTest, WrongTargetsAndOptions) {
  expect_error({"convert", model_.string(), path("out")}, HasSubstr(".gguf"));
  expect_error({"convert", path("none"), path("m.gguf")}, HasSubstr("none"));
  expect_error({"convert", model_.string(), path("no/such/m.gguf")}, HasSubstr("no/such"));
  expect_error({"convert", model_.string(), path("m.gguf"), "--type", "iq4_nl"},
               AllOf(HasSubstr("--type"), HasSubstr("iq4_nl"), HasSubstr("q4_0")));
  expect_error({"convert", model_.string(), path("m.gguf"), "--keep", "x"},
               AllOf(HasSubstr("--keep"), HasSubstr("PATTERN=TYPE")));
  expect_error({"convert", model_.string(), path("f"), "--to", "folder", "--type", "q8_0"},
               HasSubstr("--type q8_0: "));
  expect_error({"convert", model_.string(), path("f"), "--to", "folder", "--type", "Q5_K"},
               HasSubstr("--type q5_k_m: "));
  expect_error({"quantize", model_.string(), path("m.gguf"), "--type", "f16"}, HasSubstr("q8_0"));
  expect_error({"quantize", model_.string(), path("m.gguf"), "--type", "q8_0", "--inputs",
                path("nothing.safetensors")},
               HasSubstr("nothing.safetensors"));
  expect_error({"convert", test_data("formats/small.gguf").string(), path("folder")},
               HasSubstr("small.gguf"));
  EXPECT_EQ(run_program({"convert", model_.string()}).exit_code, 2);
  EXPECT_EQ(
      run_program({"convert", model_.string(), path("m.gguf"), "--shard-size", "lots"}).exit_code,
      2);
  EXPECT_THAT(names(), ElementsAre("model"));
}

TEST_F(ConvertTest, WrongFolders) {
  const auto gguf = path("m.gguf");
  std::filesystem::remove(model_ / "trol_gating.pt");
  expect_error({"convert", model_.string(), gguf}, HasSubstr("trol_gating.pt"));
  std::filesystem::copy(test_data("golden/trol/phi3-vit/model/trol_gating.pt"), model_);
  edit_tensors(model_ / "model.safetensors", [](TensorView& tensor) {
    if (tensor.name.ends_with("layers.0.self_attn.qkv_proj.weight"))
      std::swap(tensor.shape[0], tensor.shape[1]);
    if (tensor.name.ends_with("model.norm.weight")) tensor.name += "s";
  });
  expect_error({"convert", model_.string(), gguf},
               AllOf(HasSubstr("qkv_proj.weight' has shape"), HasSubstr("norm.weight' is missing"),
                     HasSubstr("norm.weights' is unexpected")));
  cut_file(model_ / "model.safetensors", 1000);
  expect_error({"convert", model_.string(), gguf}, HasSubstr("model.safetensors"));
  edit_json(model_ / "config.json", [](Json& json) { json["llm_config"].erase("hidden_size"); });
  expect_error({"quantize", model_.string(), gguf, "--type", "q8_0"},
               AllOf(HasSubstr("hidden_size"), HasSubstr("model.safetensors")));
  EXPECT_THAT(names(), ElementsAre("model"));
}

// An architecture that can't be run is converted all the same, and said so.
TEST_F(ConvertTest, UnknownArchitecture) {
  copy_model("rrt/llama", path("gemma9"));
  edit_json(folder_ / "gemma9/config.json",
            [](Json& json) { json["architectures"] = {"Gemma9ForCausalLM"}; });
  const ProgramResult result = expect_ok({"convert", path("gemma9"), path("g.gguf")});
  EXPECT_THAT(result.err, AllOf(HasSubstr("note"), HasSubstr("Gemma9ForCausalLM")));
  expect_ok({"convert", path("g.gguf"), path("back")});
  EXPECT_EQ(read_file(folder_ / "back/config.json"), read_file(folder_ / "gemma9/config.json"));
  expect_error({"quantize", path("gemma9"), path("q.gguf"), "--type", "q8_0"},
               HasSubstr("Gemma9ForCausalLM"));
  std::filesystem::copy(model_ / "trol_gating.pt", folder_ / "gemma9");
  expect_error({"convert", path("gemma9"), path("h.gguf")}, HasSubstr("trol_gating.pt"));
}

// A GGUF file that names files outside the folder it is turned into.
TEST_F(ConvertTest, HostileFileNames) {
  expect_ok({"convert", model_.string(), path("m.gguf")});
  for (const std::string name :
       {"../stolen", "a/b", ".bashrc", "", "model.safetensors", "config.json"}) {
    GgufFile file = open_gguf(path("m.gguf"));
    file.metadata.set("reprise.files." + name, GgufValue(std::string("x")));
    std::vector<OutputTensor> tensors;
    for (const TensorView& tensor : file.weights.tensors())
      tensors.push_back({tensor, tensor.type});
    write_gguf(path("evil.gguf"), file.metadata, tensors);
    expect_error({"convert", path("evil.gguf"), path("out")}, HasSubstr("reprise.files." + name));
  }
  EXPECT_THAT(names(), UnorderedElementsAre("model", "m.gguf", "evil.gguf"));
}

TEST_F(ConvertTest, NothingIsLeftOfAnUnfinishedTarget) {
  expect_ok({"convert", model_.string(), path("m.gguf")});
  // A full disk, here a limit on a file's size.
  expect_error({"convert", model_.string(), path("n.gguf")}, HasSubstr("n.gguf"),
               {.largest_file = 100'000});
  expect_error({"convert", path("m.gguf"), path("back")},
               AllOf(HasSubstr("back/model.safetensors"), ::testing::Not(HasSubstr("partial"))),
               {.largest_file = 100'000});
  EXPECT_THAT(names(), UnorderedElementsAre("model", "m.gguf"));
}

TEST_F(ConvertTest, QuantizeReportsWhatItCosts) {
  const std::string inputs = test_data("golden/trol/phi3-vit/case-image.safetensors").string();
  const ProgramResult result =
      expect_ok({"quantize", model_.string(), path("q8.gguf"), "--type", "q8_0", "--inputs", inputs,
                 "--report", path("q8.json"), "--json"});
  const Json q8 = Json::parse(result.out);
  const Json full = load_json(path("q8.json"));
  EXPECT_EQ(full["tensors"].size(), open_gguf(path("q8.gguf")).weights.tensors().size());
  EXPECT_EQ(full["roles"], q8["roles"]);
  std::map<std::string, Json> roles;
  for (const Json& role : q8["roles"]) roles[role["role"]] = role;
  EXPECT_EQ(roles.at("attention")["types"], "Q8_0");
  EXPECT_GT(roles.at("attention")["relative_rms"], 1e-4);
  EXPECT_LT(roles.at("attention")["relative_rms"], 1e-2);
  EXPECT_GT(roles.at("attention")["max_error"], 0);
  for (const char* exact : {"vision tower", "projector", "gates", "norms"}) {
    EXPECT_EQ(roles.at(exact)["types"], "F32") << exact;
    EXPECT_EQ(roles.at(exact)["relative_rms"], 0) << exact;
  }
  const Json& comparison = q8["comparison"];
  EXPECT_GT(comparison["kl_divergence"], 0);
  EXPECT_LT(comparison["kl_divergence"], 0.05);
  EXPECT_GE(comparison["kl_max"], comparison["kl_divergence"]);
  EXPECT_GT(comparison["perplexity"], 1);
  EXPECT_NEAR(
      comparison["perplexity"].get<double>() / comparison["source_perplexity"].get<double>(), 1,
      0.1);
  const Json q4 = Json::parse(
      expect_ok({"quantize", model_.string(), path("q4.gguf"), "--type", "q4_0", "--sensitive",
                 "f16", "--inputs", inputs, "--activations", "int8", "--json"})
          .out);
  EXPECT_GT(q4["comparison"]["kl_divergence"], comparison["kl_divergence"]);
  EXPECT_LT(q4["bytes"], q8["bytes"]);
  for (const Json& role : q4["roles"]) {
    if (role["role"] == "vision tower") {
      EXPECT_EQ(role["types"], "F16, F32");
    }
  }
  // A text, and the table.
  const std::string text = test_data("engine/make.py").string();
  const ProgramResult table = expect_ok({"quantize", model_.string(), path("t.gguf"), "--type",
                                         "q8_0", "--text", text, "--ctx", "64"});
  EXPECT_THAT(table.out, AllOf(HasSubstr("attention"), HasSubstr("rel. RMS"),
                               HasSubstr("KL divergence"), HasSubstr("perplexity")));
  // A GGUF file is a source too.
  const Json again = Json::parse(
      expect_ok({"quantize", path("q8.gguf"), path("again.gguf"), "--type", "q8_0", "--json"}).out);
  EXPECT_EQ(again["bytes"], q8["bytes"]);
}

TEST_F(ConvertTest, MixesOfTypes) {
  // 64 values a row: types with smaller blocks stand in.
  const std::string inputs = test_data("golden/trol/phi3-vit/case-image.safetensors").string();
  const ProgramResult result = expect_ok({"quantize", model_.string(), path("q.gguf"), "--type",
                                          "Q4_K_M", "--inputs", inputs, "--json"});
  const Json report = Json::parse(result.out);
  EXPECT_EQ(report["type"], "Q4_K_M");
  std::map<std::string, std::string> types;
  for (const Json& role : report["roles"]) types[role["role"]] = role["types"];
  EXPECT_THAT(types["attention"], AllOf(HasSubstr("Q5_0"), HasSubstr("Q8_0")));
  EXPECT_EQ(types["head"], "Q8_0");
  EXPECT_LT(report["comparison"]["kl_divergence"], 0.1);
  EXPECT_NEAR(report["comparison"]["perplexity"].get<double>() /
                  report["comparison"]["source_perplexity"].get<double>(),
              1, 0.1);
  EXPECT_EQ(open_gguf(path("q.gguf")).metadata.get_u32("general.file_type"), 15u);
  EXPECT_THAT(expect_ok({"inspect", path("q.gguf")}).out,
              AllOf(HasSubstr("Q5_0"), HasSubstr("Q8_0")));
  EXPECT_THAT(expect_ok({"quantize", model_.string(), path("notes.gguf"), "--type", "q6_k"}).out,
              HasSubstr("no multiple of 256"));
  expect_error({"quantize", model_.string(), path("m.gguf"), "--type", "q4_k_xl"},
               AllOf(HasSubstr("--type"), HasSubstr("q4_k_xl"), HasSubstr("q4_k_m, q5_k_s")));
}

TEST_F(ConvertTest, OverridesOfTypes) {
  // In front of the names, and for everything: what can't be quantized stays, and the file runs.
  const std::string inputs = test_data("golden/trol/phi3-vit/case-image.safetensors").string();
  const ProgramResult all = expect_ok({"quantize", "--keep", "*=q4_0", model_.string(),
                                       path("all.gguf"), "--type", "q8_0", "--inputs", inputs});
  EXPECT_THAT(all.out, HasSubstr("can't be quantized; they stay"));
  expect_error({"quantize", model_.string(), path("m.gguf"), "--type", "q8_0", "--keep",
                "*.no_such.weight=f16"},
               AllOf(HasSubstr("--keep '*.no_such.weight'"), HasSubstr(model_.string())));
}

TEST_F(ConvertTest, WhatIsMissingIsSaidBeforeTheWork) {
  const std::vector<std::string> quantize = {"quantize", model_.string(), path("m.gguf"), "--type",
                                             "q8_0"};
  std::vector<std::string> report = quantize;
  report.insert(report.end(), {"--report", path("no/such.json")});
  expect_error(report, HasSubstr("--report " + path("no/such.json") + ": there is no folder"));
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
    std::filesystem::remove(model_ / file);
  std::vector<std::string> text = quantize;
  text.insert(text.end(), {"--text", test_data("engine/make.py").string()});
  expect_error(text, AllOf(HasSubstr(model_.string()), HasSubstr("no tokenizer")));
  EXPECT_THAT(names(), ::testing::ElementsAre("model"));
  // A GGUF file of such a folder says the same.
  expect_ok({"convert", model_.string(), path("m.gguf")});
  expect_error({"run", path("m.gguf"), "--prompt", "a"},
               AllOf(HasSubstr("m.gguf"), HasSubstr("no tokenizer")));
}

TEST_F(ConvertTest, WhatMeansNothingIsRefused) {
  const std::string dense = test_data("golden/rrt/llama/model").string();
  const std::string folder = path("out");
  for (const auto& [extra, message] :
       {std::pair{std::vector<std::string>{"--type", "q4_0"}, "--type q4_0: "},
        {{"--type", "q4_0", "--recursive"}, "--type q4_0: "},
        {{"--keep", "*.weight=q8_0"}, "--keep *.weight=q8_0: "}}) {
    std::vector<std::string> ask = {"convert", dense, folder};
    ask.insert(ask.end(), extra.begin(), extra.end());
    expect_error(ask, AllOf(HasSubstr(message), HasSubstr(folder + " is to be a folder"),
                            HasSubstr(".gguf")));
  }
  expect_error({"convert", dense, path("m.gguf"), "--sensitive", "f16"},
               HasSubstr("--sensitive f16: says something beside a quantized --type alone"));
  expect_error({"convert", dense, folder, "--recursive", "--rank-of", "q=4", "--rank-of", "q=8"},
               HasSubstr("--rank-of q=8: q has a rank already, 4"));
  const ProgramResult once = run_program({"convert", dense, folder, "--recursive", "--loops", "1"});
  EXPECT_EQ(once.exit_code, 2);
  EXPECT_THAT(once.err, HasSubstr("--loops"));
  EXPECT_THAT(names(), ::testing::ElementsAre("model"));
  const ProgramResult capped = expect_ok({"convert", dense, folder, "--recursive", "--rank", "48"});
  EXPECT_THAT(capped.out, HasSubstr("note: adapters of k have rank 32 instead of 48"));
  const std::string help = run_program({"convert", "--help"}).out;
  EXPECT_THAT(help, HasSubstr("--loops INT:INT in [2 - 1000]=2"));
}

// What a conversion or a tokenizer says beside its target must not replace anybody's files.
TEST(OutputsBeside, NeverReplaceWhatIsRead) {
  const TempFolder folder;
  const std::string dense = test_data("golden/rrt/llama/model").string();
  const std::string target = (folder / "out.gguf").string(), text = (folder / "t.txt").string();
  const std::string layers = (folder / "layers.json").string();
  const auto convert = [&](const std::string& layers_out) {
    return run_program({"convert", dense, target, "--recursive", "--layers-out", layers_out});
  };
  for (const std::string& path : {target, dense + "/config.json"}) {
    const ProgramResult result = convert(path);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, ::testing::HasSubstr("--layers-out"));
    EXPECT_FALSE(std::filesystem::exists(target));
  }
  write_file_atomically(layers, "mine");
  EXPECT_EQ(convert(layers).exit_code, 1);
  EXPECT_EQ(read_file(layers), "mine");
  write_file_atomically(text, "some text\n");
  EXPECT_EQ(run_program({"train-tokenizer", text, "--vocab", "512", "--out", text}).exit_code, 1);
  EXPECT_EQ(read_file(text), "some text\n");
  EXPECT_EQ(run_program({"train-tokenizer", text, "--vocab", "512", "--out", layers}).exit_code, 1);
  EXPECT_EQ(read_file(layers), "mine");
}

TEST(TrainTokenizer, SaysWhatIsWrongWithATextAndItsSize) {
  const TempFolder folder;
  const std::string out = (folder / "tokenizer.model").string();
  const auto refusal = [&](const std::string& text, const std::string& vocab) {
    const ProgramResult result =
        run_program({"train-tokenizer", text, "--vocab", vocab, "--out", out});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_FALSE(std::filesystem::exists(out));
    return result.err;
  };
  EXPECT_EQ(refusal(folder.path().string(), "512"),
            "reprise: error: " + folder.path().string() + ": is a folder, expected a text file\n");
  std::string few;
  for (int i = 0; i < 40; ++i) few += "only a few words, number " + std::to_string(i) + "\n";
  write_file_atomically(folder / "few.txt", few);
  const std::string text = (folder / "few.txt").string();
  const std::string large = refusal(text, "4000");
  EXPECT_THAT(large, AllOf(HasSubstr("--vocab 4000: " + text), HasSubstr("expected at most ")));
  EXPECT_THAT(large, ::testing::Not(HasSubstr(".cc")));
  write_file_atomically(folder / "binary", few + std::string("\0\x01", 2) + few);
  EXPECT_EQ(refusal((folder / "binary").string(), "512"),
            "reprise: error: " + (folder / "binary").string() + ":41: is no text in UTF-8\n");
  write_file_atomically(folder / "latin1", "na\xefve\n");
  EXPECT_THAT(refusal((folder / "latin1").string(), "512"), HasSubstr("latin1:1: is no text"));
}

}  // namespace
}  // namespace reprise::testing
