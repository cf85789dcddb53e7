// Batches in this process: pictures are encoded beside requests that run.
#include "api/batch.h"

#include <gtest/gtest.h>

#include <map>

#include "base/base64.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/generator.h"
#include "support/test_models.h"

namespace reprise {
namespace {

using testing::copy_model;
using testing::edit_json;
using testing::TempFolder;
using testing::test_data;

TEST(BatchPictures, AnswersAreThoseOfEachAlone) {
  const TempFolder folder;
  copy_model("phantom/qwen2-vit", folder / "model");
  edit_json(folder / "model/config.json", [](Json& json) {  // room for a picture of seven tiles
    json["llm_config"]["max_position_embeddings"] = 1024;
  });
  LoadedModelOptions options;
  options.model = folder / "model";
  options.compute.threads = 2;
  const auto loaded = LoadedModel::load(options);
  const std::string bytes = read_file(test_data("golden/trol/phi3-vit-448/image.png"));
  const std::string url = "data:image/png;base64," + base64(bytes);

  const std::string damaged = "data:image/png;base64," + base64(bytes.substr(0, 100));

  std::string lines;
  const auto question = [](int i) { return "what shape " + std::string(1 + i % 3, 'a'); };
  constexpr int kLines = 12;
  for (int i = 0; i < kLines; ++i) {
    Json content = {{{"type", "text"}, {"text", question(i)}}};
    if (i % 3 != 1)
      content.push_back(
          {{"type", "image_url"}, {"image_url", {{"url", i % 4 == 3 ? damaged : url}}}});
    const Json line = {
        {"custom_id", std::to_string(i)},
        {"method", "POST"},
        {"url", "/v1/chat/completions"},
        {"body", {{"messages", {{{"role", "user"}, {"content", content}}}}, {"max_tokens", 6}}}};
    lines += line.dump() + "\n";
  }
  write_file_atomically(folder / "in.jsonl", lines);
  BatchOptions batch_options;
  batch_options.plans = make_plans(loaded->model());
  batch_options.scheduler.admission.most_running = 3;
  batch_options.scheduler.prefixes.bytes = 1 << 24;
  BatchJob batch(*loaded, batch_options, folder / "in.jsonl", folder / "out.jsonl");
  batch.run(false);
  EXPECT_EQ(batch.figures().answered, kLines);

  std::map<std::string, Json> answers;
  std::istringstream out(read_file(folder / "out.jsonl"));
  for (std::string line; std::getline(out, line);) {
    const Json answer = parse_json(line, "out.jsonl");
    answers[answer["custom_id"]] = answer;
  }
  Generator generator(*loaded, {});
  PromptBuilder builder(*loaded);
  for (int i = 0; i < kLines; ++i) {
    SCOPED_TRACE(i);
    const Json& answer = answers[std::to_string(i)];
    if (i % 4 == 3 && i % 3 != 1) {
      EXPECT_EQ(answer["response"]["status_code"], 400) << answer;
      EXPECT_TRUE(answer["error"]["message"].get<std::string>().starts_with("line ")) << answer;
      continue;
    }
    std::vector<Picture> pictures;
    if (i % 3 != 1) pictures.push_back(Picture("a.png", bytes));
    const Prompt prompt = builder.chat({{"user", question(i), pictures}});
    EXPECT_EQ(answer["response"]["body"]["choices"][0]["message"]["content"],
              generator.generate(prompt, {.max_tokens = 6}).text);
  }
}

}  // namespace
}  // namespace reprise
