// A dense model into a looped one: which layers go where, the factors of the adapters, files and
// errors. Numbers are those of golden/rrt (tests/data/golden/rrt).
#include <gmock/gmock.h>

#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "convert/looped/convert_looped.h"
#include "convert/looped/low_rank.h"
#include "convert/store_key.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/paths.h"
#include "unit/formats/test_files.h"

namespace reprise::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::filesystem::path rrt(const std::string& model) { return golden_root() / "rrt" / model; }

LoopedResult convert(const std::filesystem::path& model, const std::filesystem::path& target,
                     const LoopOptions& loop, const ConvertOptions& options = {.threads = 2}) {
  return convert_looped(open_source(model), target, target.extension() == ".gguf", loop, options);
}

std::string error_of(const std::function<void()>& step) {
  try {
    step();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(LoopLayout, StepwiseLayersAreThoseOfThePaper) {
  const Json tables = load_json(golden_root() / "rrt/layer_tables.json");
  int compared = 0;
  for (const char* list : {"tables", "paper_examples"})
    for (const Json& table : tables[list]) {
      const int layers = table["L"].get<int>(), blocks = table["K"].get<int>();
      if (layers % blocks != 0) continue;
      const LoopLayout layout =
          make_loop_layout(LoopStart::Stepwise, layers, layers / blocks, 0, 0, "model");
      std::vector<int> found;
      for (const auto& sources : layout.sources) found.push_back(sources.at(0) + 1);
      EXPECT_EQ(found, table["layers"].get<std::vector<int>>()) << table.dump();
      ++compared;
    }
  EXPECT_GE(compared, 15);
}

TEST(LoopLayout, KeptLayersStayOutside) {
  const LoopLayout layout = make_loop_layout(LoopStart::Average, 9, 3, 1, 2, "model");
  EXPECT_EQ(layout.blocks, 2);
  EXPECT_EQ(layout.layers(), 5);
  EXPECT_THAT(layout.sources, ElementsAre(ElementsAre(1, 3, 5), ElementsAre(2, 4, 6)));
  EXPECT_EQ(loop_layout_json(layout).dump(),
            R"({"B":3,"K":2,"L":9,"blocks":[[2,4,6],[3,5,7]],"init":"average"})");
  EXPECT_THAT(
      error_of([] { make_loop_layout(LoopStart::Lower, 9, 2, 0, 0, "m"); }),
      AllOf(HasSubstr("m: 9 of its 9 layers"), HasSubstr("--loops 2"), HasSubstr("--keep-first")));
  EXPECT_THAT(error_of([] { make_loop_layout(LoopStart::Lower, 4, 3, 1, 1, "m"); }),
              AllOf(HasSubstr("m: has 4 layers"), HasSubstr("needs at least 3")));
}

std::vector<double> random_matrix(int64_t out, int64_t in, uint64_t stream) {
  const Philox random(3, stream);
  std::vector<double> m(static_cast<size_t>(out * in));
  for (size_t i = 0; i < m.size(); ++i) m[i] = random.normal(i);
  return m;
}
double product_at(const LowRankFactors& f, int64_t in, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t r = 0; r < f.rank; ++r)
    sum += double{f.b[static_cast<size_t>(i * f.rank + r)]} * f.a[static_cast<size_t>(r * in + j)];
  return sum;
}

TEST(LowRank, FullRankGivesTheMatrixBack) {
  for (const auto& [out, in] : {std::pair{7, 12}, std::pair{12, 7}, std::pair{5, 5}}) {
    const std::vector<double> m = random_matrix(out, in, 1);
    const LowRankFactors f = low_rank(m, out, in, 100, 1);
    EXPECT_EQ(f.rank, std::min(out, in));
    EXPECT_NEAR(f.kept, f.residual, 1e-9);
    for (int64_t i = 0; i < out; ++i)
      for (int64_t j = 0; j < in; ++j)
        EXPECT_NEAR(product_at(f, in, i, j), m[static_cast<size_t>(i * in + j)], 1e-6);
  }
}

TEST(LowRank, LargeMatricesAreDecomposedNearlyAsWell) {
  // Above kExactDecomposition: five strong directions in noise.
  constexpr int64_t out = 2100, in = 2060, rank = 5;
  const std::vector<double> b = random_matrix(out, rank, 2), a = random_matrix(rank, in, 3),
                            noise = random_matrix(out, in, 4);
  std::vector<double> m(static_cast<size_t>(out * in));
  double expected = 0;
  for (int64_t i = 0; i < out; ++i)
    for (int64_t j = 0; j < in; ++j) {
      double value = 1e-3 * noise[static_cast<size_t>(i * in + j)];
      for (int64_t r = 0; r < rank; ++r)
        value += b[static_cast<size_t>(i * rank + r)] * a[static_cast<size_t>(r * in + j)];
      m[static_cast<size_t>(i * in + j)] = value;
      expected += value * value;
    }
  const LowRankFactors f = low_rank(m, out, in, rank, 1);
  EXPECT_NEAR(f.residual, std::sqrt(expected), 1e-6 * f.residual);
  EXPECT_GT(f.kept / f.residual, 0.999999);
  for (const auto& [i, j] : {std::pair{0, 0}, std::pair{2099, 2059}, std::pair{1000, 17}})
    EXPECT_NEAR(product_at(f, in, i, j), m[static_cast<size_t>(i * in + j)], 0.02);
}

TEST(LowRank, NothingToMakeUpFor) {
  const LowRankFactors f = low_rank(std::vector<double>(12 * 40), 12, 40, 4, 9);
  EXPECT_EQ(f.b, std::vector<float>(12 * 4));
  double squares = 0;
  for (const float x : f.a) squares += double{x} * x;
  EXPECT_NEAR(squares / (4 * 40), 1.0 / 40, 0.01);
  EXPECT_THAT(error_of([] { low_rank({1, NAN}, 1, 2, 1, 1); }), HasSubstr("finite"));
}

struct Golden {
  std::string model;
  int blocks, loops;
  std::string init;
  int64_t rank;
};

std::vector<Golden> golden_conversions() {
  std::vector<Golden> list;
  for (const char* model : {"llama", "gemma"})
    for (const auto& [blocks, loops] : {std::pair{3, 2}, std::pair{2, 3}})
      for (const char* init : {"stepwise", "average", "lower"})
        for (const int64_t rank : {0, 4, 16})
          if (std::filesystem::exists(rrt(model) / fmt::format("{}x{}", blocks, loops) /
                                      fmt::format("convert-{}-{}.safetensors", init, rank)))
            list.push_back({model, blocks, loops, init, rank});
  return list;
}

TEST(LoopedConversion, BlocksAndFactorsAreThoseOfTheReference) {
  const TensorNames names;
  int conversions = 0, products = 0;
  for (const Golden& golden : golden_conversions()) {
    SCOPED_TRACE(fmt::format("{} {}x{} {}-{}", golden.model, golden.blocks, golden.loops,
                             golden.init, golden.rank));
    const TempFolder folder;
    const LoopedResult result = convert(
        rrt(golden.model) / "model", folder / "out",
        {.start = parse_loop_start(golden.init, ""), .loops = golden.loops, .rank = golden.rank});
    const WeightFile made = open_safetensors(folder / "out/model.safetensors").weights;
    const WeightFile expected =
        open_safetensors(rrt(golden.model) / fmt::format("{}x{}", golden.blocks, golden.loops) /
                         fmt::format("convert-{}-{}.safetensors", golden.init, golden.rank))
            .weights;
    const auto adapter = [&](const std::string& of, const char* side) {
      // "delta.<loop>.<block>.<matrix>"
      const size_t a = of.find('.'), b = of.find('.', a + 1), c = of.find('.', b + 1);
      return made.get(fmt::format("model.layers.{}.lora.{}{}.{}", of.substr(b + 1, c - b - 1),
                                  of.substr(a + 1, b - a - 1), of.substr(c), side));
    };
    const auto factors = [&](const std::string& of) {
      LowRankFactors f;
      f.rank = adapter(of, "A").shape[0];
      f.a = to_floats(adapter(of, "A"));
      f.b = to_floats(adapter(of, "B"));
      return f;
    };
    for (const TensorView& tensor : expected.tensors()) {
      if (tensor.name == "layers") {
        std::vector<int64_t> found;
        for (const auto& sources : result.layout.sources)
          for (const int layer : sources) found.push_back(layer + 1);
        EXPECT_EQ(found, to_ints(tensor));
        continue;
      }
      const std::vector<float> values = to_floats(tensor);
      if (tensor.name.starts_with("block.")) {
        const int block = std::stoi(tensor.name.substr(6));
        const std::string key = tensor.name.substr(tensor.name.rfind('.') + 1);
        const TensorView& found = made.get(names.of(key, block) + ".weight");
        EXPECT_LE(distance(to_floats(found), values), golden.init == "average" ? 1e-6 : 0)
            << tensor.name;
        continue;
      }
      const LowRankFactors f = factors(tensor.name);
      const int64_t in = static_cast<int64_t>(f.a.size()) / f.rank,
                    out = static_cast<int64_t>(f.b.size()) / f.rank;
      if (tensor.name.starts_with("delta.")) {
        for (int64_t i = 0; i < out; ++i)
          for (int64_t j = 0; j < in; ++j)
            ASSERT_NEAR(product_at(f, in, i, j), values[static_cast<size_t>(i * in + j)], 5e-5);
        ++products;
      } else if (tensor.name.starts_with("norm.")) {
        double squares = 0;
        for (const float x : f.b) squares += double{x} * x;  // rows of A are orthonormal
        EXPECT_NEAR(std::sqrt(squares), values[0], 1e-5 * std::max(1.0f, values[0]));
      } else {
        ASSERT_TRUE(tensor.name.starts_with("sv.")) << tensor.name;
        for (int64_t r = 0; r < f.rank; ++r) {
          double squares = 0;
          for (int64_t i = 0; i < out; ++i)
            squares += std::pow(double{f.b[static_cast<size_t>(i * f.rank + r)]}, 2);
          EXPECT_NEAR(std::sqrt(squares), values[static_cast<size_t>(r)], 1e-5 * values[0] + 1e-9);
        }
      }
    }
    ++conversions;
  }
  EXPECT_GE(conversions, 20);
  EXPECT_GT(products, 50);
}

TEST(LoopedConversion, SplitIsAverageAtTwiceTheRank) {
  const TempFolder folder;
  const std::filesystem::path dense = rrt("llama") / "model";
  convert(dense, folder / "split",
          {.start = LoopStart::Average, .rank = 6, .adapters = LoopAdapters::Split});
  convert(dense, folder / "average", {.start = LoopStart::Average, .rank = 12});
  const WeightFile split = open_safetensors(folder / "split/model.safetensors").weights;
  const WeightFile average = open_safetensors(folder / "average/model.safetensors").weights;
  const auto layer = [](const WeightFile& file, int loop, const std::string& matrix,
                        const std::string& key) {
    std::vector<float> values = to_floats(file.get("model.layers.1." + matrix + ".weight"));
    const std::string name = fmt::format("model.layers.1.lora.{}.{}", loop, key);
    const TensorView &a = file.get(name + ".A"), &b = file.get(name + ".B");
    LowRankFactors f = {.rank = a.shape[0], .a = to_floats(a), .b = to_floats(b)};
    const int64_t in = a.shape[1];
    for (size_t i = 0; i < values.size(); ++i)
      values[i] += static_cast<float>(
          product_at(f, in, static_cast<int64_t>(i) / in, static_cast<int64_t>(i) % in));
    return values;
  };
  for (const auto& [matrix, key] :
       {std::pair{"self_attn.q_proj", "q"}, std::pair{"mlp.down_proj", "down"}})
    for (int loop = 0; loop < 2; ++loop)
      EXPECT_LE(distance(layer(split, loop, matrix, key), layer(average, loop, matrix, key)), 1e-5);
  EXPECT_THAT(
      error_of([&] {
        convert(
            dense, folder / "x",
            {.start = LoopStart::Average, .loops = 3, .rank = 2, .adapters = LoopAdapters::Split});
      }),
      AllOf(HasSubstr("--adapters split"), HasSubstr("--loops 2")));
}

TEST(LoopedConversion, RanksByMatrixAndKeptLayers) {
  const TempFolder folder;
  const LoopedResult result = convert(rrt("llama") / "model", folder / "out",
                                      {.start = LoopStart::Average,
                                       .loops = 2,
                                       .keep_first = 1,
                                       .keep_last = 1,
                                       .rank = 4,
                                       .rank_of = {{"down", 0}, {"q", 7}}});
  EXPECT_EQ(result.layout.blocks, 2);
  const Json config = load_json(folder / "out/config.json");
  EXPECT_EQ(config["num_hidden_layers"], 4);
  const Json& own = config["reprise"]["recursive"];
  EXPECT_EQ(own["first"], 1);
  EXPECT_EQ(own["last"], 1);
  EXPECT_EQ(own["lora_rank"]["q"], 7);
  EXPECT_FALSE(own["lora_rank"].contains("down"));
  // It is a model that loads, whole.
  const ConversionSource made = open_source(folder / "out");
  EXPECT_NE(made.slot("model.layers.1.lora.1.q.A"), nullptr);
  EXPECT_EQ(made.slot("model.layers.0.lora.0.q.A"), nullptr);
  EXPECT_EQ(made.slot("model.layers.1.lora.0.down.A"), nullptr);
  const WeightFile dense = open_safetensors(rrt("llama") / "model/model.safetensors").weights;
  EXPECT_EQ(to_floats(made.weights.get("model.layers.3.mlp.up_proj.weight")),
            to_floats(dense.get("model.layers.5.mlp.up_proj.weight")));
  EXPECT_THAT(error_of([&] { convert(folder / "out", folder / "again", {}); }),
              AllOf(HasSubstr("looped already"), HasSubstr("expected a dense model")));
  EXPECT_THAT(error_of([&] {
                convert(rrt("llama") / "model", folder / "x", {.rank_of = {{"qkv", 3}}});
              }),
              AllOf(HasSubstr("--rank-of qkv"), HasSubstr("q, k, v, o, gate, up, down")));
  EXPECT_THAT(error_of([&] { convert(rrt("llama") / "model", folder / "out", {}); }),
              HasSubstr("exists already"));
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

// Adapters have the rank of their matrix at most, and that is what is said.
TEST(LoopedConversion, RanksAboveThatOfAMatrixAreCapped) {
  const TempFolder folder;
  const LoopedResult result =
      convert(rrt("llama") / "model", folder / "out",
              {.start = LoopStart::Average, .rank = 48, .rank_of = {{"q", 90}}});
  const std::map<std::string, int64_t> capped = {{"q", 90}, {"k", 48}, {"v", 48}};
  EXPECT_EQ(result.capped, capped);
  const Json config = load_json(folder / "out/config.json");
  const Json& ranks = config["reprise"]["recursive"]["lora_rank"];
  EXPECT_EQ(ranks["q"], 64);
  EXPECT_EQ(ranks["k"], 32);
  EXPECT_EQ(ranks["o"], 48);
  const ConversionSource made = open_source(folder / "out");
  for (const auto& [matrix, rank] : ranks.items())
    EXPECT_EQ(made.weights.get("model.layers.0.lora.1." + matrix + ".A").shape[0],
              rank.get<int64_t>());
  EXPECT_EQ(looped_report(result)["ranks"], ranks);
  EXPECT_EQ(looped_report(result)["capped_ranks"]["k"], 48);
  EXPECT_TRUE(convert(rrt("llama") / "model", folder / "b", {.rank = 4}).capped.empty());
  EXPECT_FALSE(looped_report(convert(rrt("llama") / "model", folder / "c", {.rank = 4}))
                   .contains("capped_ranks"));
  EXPECT_THAT(error_of([&] { convert(rrt("llama") / "model", folder / "x", {.loops = 1}); }),
              HasSubstr("--loops 1: expected at least 2"));
}

// What is made of llama.cpp's file has our keys in one of its own.
TEST(StoreKey, InFilesOfEitherKind) {
  const TempFolder folder;
  convert(data_dir() / "parity/architectures/qwen3-plain.gguf", folder / "others.gguf", {});
  convert(rrt("llama") / "model", folder / "own.gguf", {.loops = 3});
  const ExitConfig rule = {ExitKind::Entropy, 0.5, ExitKv::Share};
  for (const std::string name : {"others", "own"}) {
    SCOPED_TRACE(name);
    const std::filesystem::path from = folder / (name + ".gguf"), to = folder / (name + "-2.gguf");
    store_key(from, to, "exit", exit_config_to_json(rule));
    const ConversionSource before = open_source(from), after = open_source(to);
    EXPECT_EQ(after.config->exit, rule);
    EXPECT_EQ(after.config->scheme, looping_scheme().name);
    EXPECT_EQ(after.model.kind(), before.model.kind());
    EXPECT_EQ(after.model.gguf()->metadata.has(kConfigKey), name == "own");
    ASSERT_EQ(after.weights.tensors().size(), before.weights.tensors().size());
    for (const TensorView& tensor : before.weights.tensors())
      EXPECT_EQ(to_floats(after.weights.get(tensor.name)), to_floats(tensor)) << tensor.name;
    // In the place of one that is there, whatever it is.
    store_key(to, folder / (name + "-3.gguf"), "exit", "nonsense");
    EXPECT_THAT(open_source(folder / (name + "-3.gguf")).config->exit_problem,
                HasSubstr("key 'reprise.exit': expected a JSON object"));
    store_key(folder / (name + "-3.gguf"), folder / (name + "-4.gguf"), "exit",
              exit_config_to_json(rule));
    EXPECT_EQ(open_source(folder / (name + "-4.gguf")).config->exit, rule);
  }
  EXPECT_THAT(error_of([&] { check_store(folder / "own.gguf", folder / "next"); }),
              HasSubstr("--store-as"));
}

TEST(LoopedConversion, GgufFilesOfEitherKind) {
  const TempFolder folder;
  convert(rrt("gemma") / "model", folder / "own.gguf", {.loops = 3, .rank = 2});
  EXPECT_EQ(open_source(folder / "own.gguf").config->scheme, looping_scheme().name);
  const std::filesystem::path others = data_dir() / "parity/architectures/qwen3-plain.gguf";
  convert(others, folder / "others.gguf", {.start = LoopStart::Average, .rank = 2});
  const ConversionSource made = open_source(folder / "others.gguf");
  EXPECT_EQ(made.model.kind(), ModelSource::Kind::OtherGguf);
  EXPECT_EQ(made.config->scheme, looping_scheme().name);
  EXPECT_NE(made.slot("blk.0.lora.1.gate.B"), nullptr);
  EXPECT_THAT(error_of([&] { convert(others, folder / "folder", {}); }),
              HasSubstr("only a GGUF file can be made"));
}

TEST(LoopedConversion, WeightsThatAreNotFiniteAreNamed) {
  const TempFolder folder;
  std::filesystem::copy(rrt("llama") / "model", folder / "model");
  std::filesystem::permissions(folder / "model/model.safetensors",
                               std::filesystem::perms::owner_write,
                               std::filesystem::perm_options::add);
  const WeightFile dense = open_safetensors(rrt("llama") / "model/model.safetensors").weights;
  std::vector<TensorView> tensors = dense.tensors();
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  for (TensorView& tensor : tensors) {
    if (tensor.name != name) continue;
    std::vector<float> values = to_floats(tensor);
    values[5] = NAN;
    tensor = make_view(name, tensor.shape, values);
  }
  write_safetensors(folder / "model/model.safetensors", tensors);
  for (const int64_t rank : {0, 4})
    EXPECT_THAT(error_of([&] {
                  convert(folder / "model", folder / "out",
                          {.start = LoopStart::Average, .rank = rank});
                }),
                AllOf(HasSubstr("model"), HasSubstr("'" + name + "'"), HasSubstr("finite")));
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

TEST(LoopedConversion, UntiedLayersAreLowRankAndShareNothing) {
  const TempFolder folder;
  const auto convert_untied = [&](const std::string& model, const LoopOptions& options) {
    return error_of([&] { convert(data_dir() / "golden" / model, folder / "x", options); });
  };
  const LoopedResult result = convert(rrt("llama") / "model", folder / "out",
                                      {.start = LoopStart::Untied, .loops = 6, .rank = 3});
  EXPECT_EQ(result.layout.layers(), 1);
  EXPECT_EQ(result.shape.loops, 6);
  const WeightFile made = open_safetensors(folder / "out/model.safetensors").weights;
  for (const float x : to_floats(made.get("model.layers.0.mlp.up_proj.weight"))) EXPECT_EQ(x, 0);
  for (const float x : to_floats(made.get("model.layers.0.input_layernorm.weight")))
    EXPECT_EQ(x, 1);
  EXPECT_EQ(made.get("model.layers.0.lora.5.down.A").shape[0], 3);
  EXPECT_THAT(convert_untied("rrt/llama/model", {.start = LoopStart::Untied, .rank = 3}),
              AllOf(HasSubstr("--init untied"), HasSubstr("--loops 6")));
  EXPECT_THAT(convert_untied("rrt/llama/model",
                             {.start = LoopStart::Untied, .loops = 6, .rank_of = {{"q", 3}}}),
              AllOf(HasSubstr("rank 0"), HasSubstr("'")));
  EXPECT_THAT(
      convert_untied(
          "rrt/llama/model",
          {.start = LoopStart::Untied, .loops = 6, .rank = 3, .adapters = LoopAdapters::Zero}),
      HasSubstr("expected --adapters svd or weighted"));
  // Biases of layers have no place in adapters.
  EXPECT_THAT(convert_untied("phantom/qwen2-vit/model",
                             {.start = LoopStart::Untied, .loops = 3, .rank = 3}),
              AllOf(HasSubstr("isn't a matrix"), HasSubstr("q_proj.bias")));
}

TEST(LoopedConversion, NewWeightsFollowTheSeed) {
  const TempFolder folder;
  for (const auto& [name, seed] : {std::pair{"a", 1}, std::pair{"b", 1}, std::pair{"c", 2}})
    convert(rrt("llama") / "model", folder / name,
            {.start = LoopStart::Random, .rank = 2, .seed = static_cast<uint64_t>(seed)});
  const auto matrix = [&](const char* name) {
    return to_floats(open_safetensors(folder / name / "model.safetensors")
                         .weights.get("model.layers.1.mlp.up_proj.weight"));
  };
  EXPECT_EQ(matrix("a"), matrix("b"));
  EXPECT_NE(matrix("a"), matrix("c"));
}

TEST(LoopedConversion, TheLanguageModelOfAVisionLanguageModel) {
  const TempFolder folder;
  for (const char* model : {"phantom/qwen2-vit", "trol/internlm2-clip"}) {
    const std::filesystem::path source = data_dir() / "golden" / model / "model";
    if (!std::filesystem::exists(source)) continue;
    SCOPED_TRACE(model);
    const auto target = folder / std::filesystem::path(model).filename();
    const LoopedResult result = convert(source, target, {.loops = 3, .rank = 2});
    EXPECT_FALSE(result.dropped.empty());
    const ConversionSource made = open_source(target);
    EXPECT_EQ(made.config->scheme, looping_scheme().name);
    EXPECT_FALSE(made.config->vision);
  }
}

}  // namespace
}  // namespace reprise::test
