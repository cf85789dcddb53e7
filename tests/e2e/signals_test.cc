// Signals and limits that end the program: what is left of the output, and the exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Signals : public ::testing::Test {
 protected:
  // A Llama that takes seconds to be looped: decompositions of its matrices.
  void write_dense() const {
    constexpr int kLayers = 8, kD = 256, kFfn = 640;
    const Json config = {{"architectures", {"LlamaForCausalLM"}},
                         {"hidden_size", kD},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 4},
                         {"intermediate_size", kFfn},
                         {"vocab_size", 64},
                         {"num_hidden_layers", kLayers},
                         {"rms_norm_eps", 1e-5},
                         {"hidden_act", "silu"},
                         {"max_position_embeddings", 64},
                         {"tie_word_embeddings", false}};
    fs::create_directories(folder_ / "dense");
    write_file_atomically(folder_ / "dense/config.json", config.dump());
    std::vector<std::vector<float>> values;
    std::vector<std::pair<std::string, Shape>> tensors;
    const auto add = [&](const std::string& name, const Shape& shape) {
      const Philox random(1, tensors.size());
      std::vector<float> x(static_cast<size_t>(num_elements(shape)));
      for (size_t i = 0; i < x.size(); ++i) x[i] = 0.05f * (random.uniform(i) - 0.5f);
      values.push_back(std::move(x));
      tensors.emplace_back(name, shape);
    };
    add("model.embed_tokens.weight", {64, kD});
    add("model.norm.weight", {kD});
    add("lm_head.weight", {64, kD});
    for (int i = 0; i < kLayers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      for (const char* name : {"q", "k", "v", "o"})
        add(layer + "self_attn." + name + "_proj.weight", {kD, kD});
      for (const char* name : {"gate", "up"})
        add(layer + "mlp." + name + "_proj.weight", {kFfn, kD});
      add(layer + "mlp.down_proj.weight", {kD, kFfn});
      add(layer + "input_layernorm.weight", {kD});
      add(layer + "post_attention_layernorm.weight", {kD});
    }
    std::vector<TensorView> views;
    for (size_t i = 0; i < tensors.size(); ++i)
      views.push_back(
          make_view(tensors[i].first, tensors[i].second, std::span<const float>(values[i])));
    write_safetensors(folder_ / "dense/model.safetensors", views);
  }
  std::vector<std::string> convert() const {
    return {"convert",
            (folder_ / "dense").string(),
            (folder_ / "out").string(),
            "--recursive",
            "--init",
            "average",
            "--rank",
            "16",
            "--threads",
            "1"};
  }
  std::vector<std::string> beside() const {  // what lies in the test's folder but the source
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      if (entry.path().filename() != "dense") names.push_back(entry.path().filename().string());
    return names;
  }
  const TempFolder folder_;
};

TEST_F(Signals, AConversionThatIsEndedLeavesNothing) {
  write_dense();
  const auto under_way = [&] { return !beside().empty(); };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const ProgramResult ended =
        run_program(convert(), {.interrupt = signal, .interrupt_when = under_way});
    EXPECT_EQ(ended.exit_code, 128 + signal) << ended.err;
    EXPECT_THAT(ended.err, HasSubstr("interrupted; nothing was written"));
    EXPECT_THAT(beside(), IsEmpty()) << signal;
  }
  // Nothing can be done about this one; the next run clears it away.
  const ProgramResult killed =
      run_program(convert(), {.interrupt = SIGKILL, .interrupt_when = under_way});
  EXPECT_EQ(killed.signal, SIGKILL);
  EXPECT_THAT(beside(), ::testing::ElementsAre(HasSubstr("out.partial-")));
  const ProgramResult again = run_program(convert());
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(beside(), ::testing::ElementsAre("out"));
}

TEST_F(Signals, NohupKeepsItsMeaning) {
  write_dense();
  const ProgramResult done =
      run_program(convert(), {.wrapper = {"nohup"}, .interrupt = SIGHUP, .interrupt_when = [&] {
                                return !beside().empty();
                              }});
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_THAT(beside(), ::testing::ElementsAre("out"));
}

TEST_F(Signals, TrainingLeavesACheckpoint) {
  copy_model("rrt/llama", folder_ / "dense");
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 4 * 9; ++i) ids.push_back(i * i * 7 % 320);
  write_safetensors(folder_ / "dense/tokens.safetensors",
                    {make_view("tokens", Shape{4, 9}, std::span<const int64_t>(ids))});
  write_file_atomically(
      folder_ / "dense/recipe.yaml",
      "model: {from: .}\ndata: {train: [{tokens: tokens.safetensors}]}\nloss: lm\n"
      "run: {steps: 10000000, batch: 1, log_every: 1}\n");
  std::vector<std::string> train = {"train",     (folder_ / "dense/recipe.yaml").string(),
                                    "--out",     (folder_ / "run").string(),
                                    "--threads", "1"};
  const fs::path log = folder_ / "run/log.jsonl";  // a line a step
  const auto logged = [&] {
    std::error_code none;
    const auto size = fs::file_size(log, none);
    return none ? 0 : size;
  };
  int64_t steps = 0;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const auto before = logged();
    const ProgramResult ended = run_program(
        train, {.interrupt = signal, .interrupt_when = [&] { return logged() > before; }});
    if (ended.err.find("torch backend") != std::string::npos)
      GTEST_SKIP() << "built without the torch backend";
    EXPECT_EQ(ended.exit_code, 128 + signal) << ended.err;
    EXPECT_THAT(ended.out, HasSubstr("stopped; '--resume' goes on from"));
    const SafetensorsFile file = open_safetensors(folder_ / "run/checkpoint.safetensors");
    const int64_t done = std::stoll(file.metadata.at("step"));
    EXPECT_GT(done, steps);
    steps = done;
    for (const auto& entry : fs::directory_iterator(folder_ / "run"))
      EXPECT_THAT(entry.path().string(), Not(HasSubstr("partial")));
    if (signal == SIGINT) train.push_back("--resume");
  }
}

TEST_F(Signals, AGenerationThatIsEndedShowsWhatItHas) {
  copy_model("rrt/llama", folder_ / "dense");
  edit_json(folder_ / "dense/config.json",
            [](Json& json) { json["max_position_embeddings"] = 100'000'000; });
  edit_tensors(folder_ / "dense/model.safetensors", [](TensorView& tensor) {
    if (tensor.name != "lm_head.weight") return;  // [320, 64]
    std::vector<float> values = to_floats(tensor);
    for (const int end_token : {2, 4}) std::fill_n(values.begin() + end_token * 64, 64, 0.0f);
    tensor = make_view(tensor.name, tensor.shape, std::span<const float>(values));
  });
  for (const int signal : {SIGTERM, SIGHUP}) {
    const ProgramResult ended = run_program(
        {"run", (folder_ / "dense").string(), "--prompt", "what shape"}, {.interrupt = signal});
    EXPECT_EQ(ended.exit_code, 128 + signal) << ended.err;
    EXPECT_THAT(ended.err, HasSubstr("cancelled"));
  }
}

}  // namespace
}  // namespace reprise::testing
