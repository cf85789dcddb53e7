// trace, tokenize, inspect and eval: what they are for, and their wrong inputs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <limits>

#include "base/file.h"
#include "base/json.h"
#include "e2e/program.h"
#include "support/test_models.h"

namespace reprise::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class CommandTest : public ::testing::Test {
 protected:
  static void expect_error(const std::vector<std::string>& arguments,
                           const ::testing::Matcher<std::string>& message,
                           const ProgramOptions& options = {}) {
    const ProgramResult result = run_program(arguments, options);
    EXPECT_EQ(result.exit_code, 1) << ::testing::PrintToString(arguments) << result.out;
    EXPECT_THAT(result.err, AllOf(StartsWith("reprise: error: "), message));
  }
  std::string model(const std::string& name) const {
    return test_data("golden/" + name + "/model").string();
  }
  std::string with_tokenizer(const std::string& name) {
    if (!std::filesystem::exists(folder_ / "model")) copy_model(name, folder_ / "model");
    return (folder_ / "model").string();
  }
  std::string write(const std::string& name, const std::string& text) {
    write_file_atomically(folder_ / name, text);
    return (folder_ / name).string();
  }
  // The files in the test's folder.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
  TempFolder folder_;
};

float largest_difference(const TensorView& a, const TensorView& b) {
  const std::vector<float> x = to_floats(a), y = to_floats(b);
  EXPECT_EQ(x.size(), y.size()) << a.name;
  float most = 0;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    most = std::max(most, std::abs(x[i] - y[i]));
  }
  return most;
}

TEST_F(CommandTest, TraceReproducesGoldenCases) {
  const std::string out = (folder_ / "out.safetensors").string();
  for (const std::string name : {"trol/phi3-vit", "phantom/qwen2-vit", "phantom/qwen2-vit-448"}) {
    const auto path = test_data("golden/" + name + "/case-image.safetensors");
    const ProgramResult result = run_program({"trace", model(name), "--inputs", path.string(),
                                              "--out", out, "--steps", "6", "--chunk", "100"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const WeightFile found = open_safetensors(out).weights;
    const WeightFile golden = open_safetensors(path).weights;
    EXPECT_EQ(to_ints(found.get("decode.tokens")), to_ints(golden.get("decode.tokens"))) << name;
    EXPECT_LT(largest_difference(found.get("decode.logits"), golden.get("decode.logits")), 2e-4f);
    EXPECT_LT(
        largest_difference(found.get("decode.1.layer.1.out"), golden.get("decode.1.layer.1.out")),
        5e-4f);
    const int64_t n = golden.get("input_ids").shape.back();
    EXPECT_EQ(found.get("layer.0.out").shape, (Shape{n, 64}));
    EXPECT_EQ(found.get("logits").shape[0], n);
    if (golden.find("logits")->shape[1] == n) {
      EXPECT_LT(largest_difference(found.get("logits"), golden.get("logits")), 2e-4f) << name;
      EXPECT_LT(largest_difference(found.get("layer.1.k"), golden.get("layer.1.k")), 5e-4f);
    }
  }
}

TEST_F(CommandTest, TraceGivesTheSameBitsWhateverTheSlices) {
  const auto trace = [&](std::vector<std::string> more) {
    const std::string out = (folder_ / "out.safetensors").string();
    more.insert(more.begin(), {"trace", model("trol/phi3-vit"), "--inputs",
                               test_data("golden/trol/phi3-vit/case-image.safetensors").string(),
                               "--out", out, "--steps", "4"});
    EXPECT_EQ(run_program(more).exit_code, 0);
    return read_file(out);
  };
  const std::string whole = trace({});
  EXPECT_TRUE(trace({"--chunk", "1"}) == whole);
  EXPECT_TRUE(trace({"--chunk", "13", "--threads", "1"}) == whole);
  EXPECT_FALSE(trace({"--passes", "1"}) == whole);
}

TEST_F(CommandTest, TraceErrorsNameFileAndTensor) {
  const std::string llama = model("rrt/llama");
  const std::string in = (folder_ / "in.safetensors").string();
  const std::string out = (folder_ / "out.safetensors").string();
  const std::vector<int64_t> ids = {1, 2, 3};
  const std::vector<float> pixels(2 * 3 * 4 * 4);
  const auto expect = [&](const std::vector<TensorView>& tensors, const std::string& used,
                          const ::testing::Matcher<std::string>& message) {
    write_safetensors(in, tensors);
    expect_error({"trace", used, "--inputs", in, "--out", out}, message);
    EXPECT_FALSE(std::filesystem::exists(out));
  };
  const auto input = [&](Shape shape, std::vector<int64_t> values) {
    return make_view("input_ids", std::move(shape), std::span<const int64_t>(values));
  };
  expect({make_view("other", {3}, std::span<const int64_t>(ids))}, llama,
         AllOf(HasSubstr(in), HasSubstr("input_ids")));
  expect({make_view("input_ids", {3}, std::span<const float>(pixels.data(), 3))}, llama,
         AllOf(HasSubstr(in), HasSubstr("I64"), HasSubstr("F32")));
  expect({input({0}, {})}, llama, HasSubstr("empty"));
  expect({input({1}, {-1})}, llama, HasSubstr("-1"));
  expect({input({2}, {1, 320})}, llama, AllOf(HasSubstr("320"), HasSubstr("position 1")));
  expect({input({2, 2}, {1, 2, 3, 4})}, llama, HasSubstr("[1, n]"));
  expect({input({3}, ids), make_view("attention_mask", {3},
                                     std::span<const int64_t>(std::vector<int64_t>{0, 1, 1}))},
         llama, HasSubstr("attention_mask"));
  const TensorView picture = make_view("pixel_values", {2, 3, 4, 4}, std::span(pixels));
  expect({input({3}, ids), picture}, llama, HasSubstr("no vision tower"));
  expect({input({3}, ids), picture}, model("trol/phi3-vit"),
         AllOf(HasSubstr("pixel_values"), HasSubstr("[tiles, 3, 112, 112]")));
  expect({input({3}, {1, 5, 2})}, model("trol/phi3-vit"), HasSubstr("1 image placeholders"));
  const auto labels = [&](std::vector<int64_t> values) {
    return make_view("labels", {static_cast<int64_t>(values.size())},
                     std::span<const int64_t>(values));
  };
  expect({input({3}, ids), labels({-100, 1, 320})}, llama, AllOf(HasSubstr(in), HasSubstr("320")));
  std::vector<int64_t> shown(17, 5);  // a tile of 16 rows
  shown[16] = 1;
  std::vector<float> values(3 * 112 * 112);
  values[77] = std::numeric_limits<float>::quiet_NaN();
  expect({input({17}, shown), make_view("pixel_values", {1, 3, 112, 112}, std::span(values))},
         model("trol/phi3-vit"), AllOf(HasSubstr(in), HasSubstr("pixel_values"), HasSubstr("NaN")));
  expect_error({"trace", llama, "--inputs", (folder_ / "none").string(), "--out", out},
               HasSubstr("none"));
}

TEST_F(CommandTest, NothingRunsBeyondTheContext) {
  const std::string llama = model("rrt/llama");  // of 256 tokens
  const std::string in = (folder_ / "in.safetensors").string();
  const std::string out = (folder_ / "out.safetensors").string();
  const auto inputs = [&](const char* name, const Shape& shape) {
    const std::vector<int64_t> ids(static_cast<size_t>(num_elements(shape)), 7);
    std::vector<TensorView> tensors = {make_view(name, shape, std::span<const int64_t>(ids))};
    write_safetensors(in, tensors);
    return std::vector<std::string>{"trace", llama, "--inputs", in, "--out", out};
  };
  const auto with = [](std::vector<std::string> arguments, const char* steps) {
    arguments.insert(arguments.end(), {"--steps", steps});
    return arguments;
  };
  std::vector<std::string> ask = inputs("input_ids", {250});
  expect_error(with(ask, "8"), AllOf(HasSubstr("--steps 8"), HasSubstr("250 tokens of " + in),
                                     HasSubstr("(256) leaves room for 7")));
  EXPECT_EQ(run_program(with(ask, "7")).exit_code, 0) << "the last token isn't run";
  expect_error(inputs("input_ids", {257}),
               AllOf(HasSubstr("--inputs " + in), HasSubstr("257 tokens"), HasSubstr("has 256")));
  expect_error({"quantize", llama, out + ".gguf", "--type", "q8_0", "--inputs", in},
               AllOf(HasSubstr("--inputs " + in), HasSubstr("257"), HasSubstr("256")));
  EXPECT_FALSE(std::filesystem::exists(out + ".gguf"));
  // Losses: nothing is generated beside them.
  ask = inputs("tokens", {1, 9});
  expect_error(with(ask, "3"), AllOf(HasSubstr("--steps"), HasSubstr("asks for losses (tokens)")));
  ask.insert(ask.end(), {"--plan", "0-5,0"});
  expect_error(ask, AllOf(HasSubstr("--plan"), HasSubstr("the model's own plan")));
}

TEST_F(CommandTest, NothingHalfWritten) {
  const std::string out = (folder_ / "out.safetensors").string();
  const std::string llama = (folder_ / "model").string();
  copy_model("rrt/llama", folder_ / "model");
  edit_json(folder_ / "model/config.json",
            [](Json& json) { json["max_position_embeddings"] = 1'000'000; });
  const std::vector<std::string> trace = {
      "trace", llama, "--inputs", test_data("golden/rrt/llama/dense.safetensors"), "--out", out};
  // A full disk, here a limit on the file's size.
  expect_error(trace, HasSubstr("out.safetensors"), {.largest_file = 4096});
  EXPECT_EQ(files(), std::vector<std::string>{"model"});
  // A folder that doesn't exist.
  std::vector<std::string> nowhere = trace;
  nowhere.back() = (folder_ / "no/such/out.safetensors").string();
  expect_error(nowhere, HasSubstr("no/such"));
  // A device is written to, and never replaced by a file.
  std::vector<std::string> full = trace;
  full.back() = "/dev/full";
  expect_error(full, AllOf(HasSubstr("/dev/full"), HasSubstr("No space")));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  // A killed program.
  std::vector<std::string> long_trace = trace;
  long_trace.insert(long_trace.end(), {"--steps", "100000"});
  const ProgramResult killed =
      run_program(long_trace, {.interrupt = SIGKILL, .interrupt_after_ms = 300});
  EXPECT_EQ(killed.signal, SIGKILL);
  EXPECT_EQ(files(), std::vector<std::string>{"model"});
  // An older file stays when the new one can't be written.
  write_file_atomically(out, "older");
  expect_error(trace, HasSubstr("out.safetensors"), {.largest_file = 4096});
  EXPECT_EQ(read_file(out), "older");
  EXPECT_EQ(run_program(trace).exit_code, 0);
  EXPECT_THAT(files(), ::testing::UnorderedElementsAre("model", "out.safetensors"));
}

TEST_F(CommandTest, OutputThatCannotBeWritten) {
  const std::string llama = with_tokenizer("rrt/llama");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"tokenize", llama, "--text", "a"},
        {"inspect", llama, "--json"},
        {"run", llama, "--prompt", "a", "--max-tokens", "3", "--json"},
        {"run", llama, "--prompt", "a", "--max-tokens", "3"},
        {"--version"},
        {"run", "--help"}}) {
    expect_error(arguments, HasSubstr("output"), {.stdout_path = "/dev/full"});
  }
}

TEST_F(CommandTest, Tokenize) {
  const std::string llama = with_tokenizer("rrt/llama");
  const auto ids = [&](std::vector<std::string> more, const ProgramOptions& options = {}) {
    more.insert(more.begin(), {"tokenize", llama});
    const ProgramResult result = run_program(more, options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  const std::string text = "the shape<|im_end|>";
  const Json found = parse_json(ids({"--text", text}), "stdout");
  EXPECT_THAT(found["ids"], ElementsAre(269, 300, 4));
  const Json plain = parse_json(ids({"--text", text, "--plain"}), "stdout");
  EXPECT_GT(plain["ids"].size(), 3u);
  EXPECT_EQ(ids({"--file", write("text.txt", text)}), ids({"--text", text}));
  EXPECT_EQ(ids({}, {.input = text}), ids({"--text", text}));
  EXPECT_EQ(ids({"--text", ""}), "{\"ids\":[]}\n");
  EXPECT_EQ(ids({"--lines", write("lines.jsonl", "\"the shape<|im_end|>\"\n\"the\"\n")}),
            "{\"ids\":[269,300,4]}\n{\"ids\":[269]}\n");

  expect_error({"tokenize", llama, "--lines", write("bad.jsonl", "\"a\"\n{\"b\":1}\n")},
               AllOf(HasSubstr("bad.jsonl:2"), HasSubstr("JSON string")));
  expect_error({"tokenize", llama, "--lines", write("bad.jsonl", "\"a\n")},
               HasSubstr("bad.jsonl:1"));
  expect_error({"tokenize", llama, "--file", (folder_ / "none").string()}, HasSubstr("none"));
  expect_error({"tokenize", model("rrt/llama"), "--text", "a"}, HasSubstr("tokenizer.json"));
  EXPECT_EQ(run_program({"tokenize", llama, "--text", "a", "--file", "b"}).exit_code, 2);
}

TEST_F(CommandTest, Inspect) {
  const ProgramResult text = run_program({"inspect", model("trol/phi3-vit")});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("scheme trol"), HasSubstr("layer.2.pass2"),
                              HasSubstr("plan of decode: 3 visits of 3 blocks: 0-2"),
                              HasSubstr("official tiles")));
  const auto inspect = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"inspect", model("rrt/llama"), "--json"});
    const ProgramResult result = run_program(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  };
  const Json dense = inspect({"--ctx", "64"});
  // 6 rows x 64 tokens x 2 heads x (16 + 16) x 4 bytes
  EXPECT_EQ(dense["memory"]["kv_bytes"], 6 * 64 * 2 * 32 * 4);
  EXPECT_EQ(inspect({"--ctx", "64", "--kv", "f16"})["memory"]["kv_bytes"], 6 * 64 * 2 * 32 * 2);
  EXPECT_EQ(dense["parameters"]["unique"], dense["parameters"]["effective_decode"]);
  const Json replay = inspect({"--ctx", "64", "--plan", "0-5,2-4"});
  EXPECT_EQ(replay["memory"]["kv_bytes"], 9 * 64 * 2 * 32 * 4);
  EXPECT_EQ(replay["parameters"]["unique"], dense["parameters"]["unique"]);
  const int64_t block = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 112 + 2 * 64;
  EXPECT_EQ(replay["parameters"]["effective_decode"].get<int64_t>(),
            dense["parameters"]["unique"].get<int64_t>() + 3 * block);
  EXPECT_EQ(replay["plan"]["decode"]["steps"].size(), 9u);

  expect_error({"inspect", model("rrt/llama"), "--plan", "0-3,x"},
               AllOf(HasSubstr("--plan"), HasSubstr("x")));
}

// The second of two models has the --beside- options alone.
TEST_F(CommandTest, BenchBesideWithAnotherPlan) {
  const auto subjects = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"bench", model("trol/phi3-vit"), "--prefill", "6", "--repeat", "1",
                               "--threads", "1", "--json"});
    const ProgramResult result = run_program(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::vector<std::string> names;
    const Json facts = parse_json(result.out, "stdout");
    for (const Json& subject : facts.at("subjects")) names.push_back(subject.at("name"));
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(subjects({"--adaptive", "0.5"}), (Names{"model --adaptive 0.5"}));
  EXPECT_EQ(subjects({"--adaptive", "0.5", "--beside-passes", "1"}),
            (Names{"model --adaptive 0.5", "model --passes 1"}));
  EXPECT_EQ(subjects({"--passes", "3", "--beside", model("rrt/llama"), "--beside-plan", "0-1,0"}),
            (Names{"model --passes 3", "model --plan 0-1,0"}));
  const ProgramResult refused =
      run_program({"bench", model("rrt/llama"), "--beside-passes", "1", "--prefill", "4"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("--passes: is no option of this model"));
}

TEST_F(CommandTest, EvalPerplexity) {
  const std::string llama = with_tokenizer("rrt/llama");
  std::string text;
  for (int i = 0; i < 60; ++i) text += "what shape is in the picture? a red circle, is it not\n";
  const auto eval = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", llama, "--perplexity", write("text.txt", text), "--json"});
    const ProgramResult result = run_program(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  };
  const Json found = eval({"--ctx", "64"});
  EXPECT_GT(found["perplexity"], 1.0);
  EXPECT_NEAR(found["perplexity"].get<double>(), std::exp(found["mean_nll"].get<double>()), 1e-6);
  EXPECT_EQ(found["tokens"].get<int>(), found["windows"].get<int>() * 31);
  EXPECT_EQ(eval({"--ctx", "64", "--chunk", "5", "--threads", "1"})["perplexity"],
            found["perplexity"]);
  EXPECT_NE(eval({"--ctx", "64", "--plan", "0-5,2-4"})["perplexity"], found["perplexity"]);

  expect_error({"eval", llama, "--perplexity", write("short.txt", "a"), "--ctx", "64"},
               HasSubstr("1 tokens"));
  expect_error({"eval", llama, "--perplexity", write("text.txt", text), "--ctx", "512"},
               AllOf(HasSubstr("--ctx 512"), HasSubstr("256")));
  expect_error({"eval", llama, "--perplexity", (folder_ / "none").string()}, HasSubstr("none"));
  EXPECT_EQ(run_program({"eval", llama}).exit_code, 2);
}

TEST_F(CommandTest, EvalQuestions) {
  const std::string phantom = with_tokenizer("phantom/qwen2-vit");
  std::filesystem::copy(test_data("golden/trol/phi3-vit-448/image.png"), folder_ / "a.png");
  const std::string questions =
      write("qa.jsonl",
            "{\"image\":\"a.png\",\"question\":\"what shape is it?\",\"answer\":\"circle\"}\n"
            "{\"image\":\"a.png\",\"question\":\"what colour?\",\"answer\":\"red\"}\n"
            "{\"image\":\"a.png\",\"question\":\"is it red?\",\"answer\":\"red\"}\n");
  const auto eval = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"eval", phantom, "--qa", questions, "--images",
                               folder_.path().string(), "--max-tokens", "4", "--json"});
    const ProgramResult result = run_program(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return parse_json(result.out, "stdout");
  };
  const std::string out = (folder_ / "out.jsonl").string();
  const Json found = eval({"--predictions", out});
  EXPECT_EQ(found["questions"], 3);
  EXPECT_EQ(found["exact_match"], 0.0);
  EXPECT_EQ(found["images_encoded"], 1);
  EXPECT_EQ(found["by_answer"].size(), 2u);
  EXPECT_EQ(found["interval"].size(), 2u);
  EXPECT_EQ(eval({"--limit", "2"})["questions"], 2);
  const Json blind = eval({"--blind"});
  EXPECT_EQ(blind["images_encoded"], 0);

  // What it answered is right when it is the answer asked for.
  std::istringstream lines(read_file(out));
  std::string right;
  for (std::string line; std::getline(lines, line);) {
    Json json = parse_json(line, out);
    json["answer"] = json["prediction"];
    right += json.dump() + "\n";
  }
  if (right.find("\xef\xbf\xbd") == std::string::npos) {
    write("qa.jsonl", right);
    EXPECT_EQ(eval({})["exact_match"], 1.0);
  }

  const auto broken = [&](const std::string& text) { return write("broken.jsonl", text); };
  expect_error({"eval", phantom, "--qa", broken("{\"image\":\"a.png\",\"question\":\"b\"}\n")},
               AllOf(HasSubstr("broken.jsonl:1"), HasSubstr("answer")));
  expect_error(
      {"eval", phantom, "--qa",
       broken("{\"image\":\"none.png\",\"question\":\"b\",\"answer\":\"c\"}\n"), "--images",
       folder_.path().string(), "--predictions", (folder_ / "never.jsonl").string()},
      HasSubstr("none.png"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "never.jsonl"));
  // Said before the questions are answered, not after it.
  const std::string nowhere = (folder_ / "no/such.jsonl").string();
  expect_error({"eval", phantom, "--qa", questions, "--images", folder_.path().string(),
                "--predictions", nowhere},
               HasSubstr("--predictions " + nowhere + ": there is no folder"));
}

}  // namespace
}  // namespace reprise::testing
