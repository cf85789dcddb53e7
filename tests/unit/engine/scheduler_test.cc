// The scheduler with a whole model: what CI runs of it under sanitizers. Its parity with each request
// alone is tested at length in tests/parity/serve_test.cc.
#include "engine/serve/scheduler.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/json.h"
#include "engine/generator.h"
#include "support/test_models.h"

namespace reprise {
namespace {

using testing::copy_model;
using testing::edit_json;
using testing::TempFolder;

// Requests from another thread, with exits, sampled, cancelled, under a budget that takes KV away
// from some, and with heads in common.
TEST(Scheduler, RequestsFromAnotherThreadAreAnsweredAsAlone) {
  const TempFolder folder;
  copy_model("rrt/llama", folder / "model");
  edit_json(folder / "model/config.json", [](Json& config) {
    config["reprise"] = {{"scheme", "recursive"}, {"recursive", {{"loops", 3}, {"lora_rank", 0}}}};
  });
  LoadedModelOptions load;
  load.model = folder / "model";
  load.compute.threads = 2;
  const auto loaded = LoadedModel::load(load);
  Model& model = loaded->model();
  const auto plans = make_plans(model);

  constexpr size_t kRequests = 14, kCancelled = 5;
  std::vector<Prompt> prompts(kRequests);
  std::vector<GenerationOptions> options(kRequests);
  std::vector<std::vector<int32_t>> found(kRequests);
  std::vector<std::optional<StopReason>> ends(kRequests);
  for (size_t i = 0; i < kRequests; ++i) {
    for (size_t t = 0; t < 34 + i % 3; ++t)
      prompts[i].tokens.ids.push_back(static_cast<int32_t>(20 + (t < 33 ? t : t + i)));
    options[i].max_tokens = 20 + static_cast<int64_t>(i);
    if (i % 2 == 1) options[i].sampler = {.temperature = 1, .seed = i};
    if (i % 3 > 0)
      options[i].exit = {.kind = ExitKind::Depth,
                         .threshold = 1.0 + static_cast<double>(i % 2),
                         .kv = i % 4 == 0 ? ExitKv::Exact : ExitKv::Propagate};
  }
  SchedulerOptions scheduling;
  scheduling.prompt_rows = 16;
  scheduling.admission.reserve_ahead = 1;
  scheduling.admission.kv_budget =
      kv_bytes(model.kv_spec(), std::ssize(plans->decode.kv_rows), 64) * 4;
  scheduling.prefixes = {
      .bytes = scheduling.admission.kv_budget, .least_tokens = 4, .answers = true};
  Scheduler scheduler(model, scheduling);
  std::thread engine([&] { scheduler.run(); });
  std::atomic<size_t> open = kRequests;
  for (size_t i = 0; i < kRequests; ++i) {
    ServeRequest request;
    request.prompt = prompts[i].tokens;
    request.rules = answer_rules(*loaded, prompts[i], options[i]);
    request.exit = options[i].exit;
    request.plans = plans;
    request.priority = static_cast<int>(i % 2);
    request.on_event = [&, i](const ServeEvent& event) {
      if (event.kind == ServeEvent::Kind::Token) return found[i].push_back(event.token);
      EXPECT_EQ(event.error, "");
      ends[i] = event.reason;
      --open;
    };
    const RequestId id = scheduler.submit(std::move(request));
    if (i == kCancelled) scheduler.cancel(id);
  }
  while (open > 0) std::this_thread::yield();
  scheduler.stop();
  engine.join();
  scheduler.check();
  EXPECT_GT(scheduler.stats().prefix_hits, 0);
  for (size_t i = 0; i < kRequests; ++i) {
    SCOPED_TRACE(i);
    ASSERT_TRUE(ends[i].has_value());
    if (i == kCancelled && ends[i] == StopReason::Cancelled) continue;
    EXPECT_EQ(found[i], Generator(*loaded, {}).generate(prompts[i], options[i]).tokens);
  }
}

}  // namespace
}  // namespace reprise
