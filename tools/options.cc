#include "tools/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <map>

#include "base/json.h"

namespace reprise::tools {

void EngineFlags::add(cli::App& app) {
  app.add_option("model", model, "Hugging Face folder or GGUF file")
      ->type_name("MODEL")
      ->required();
  app.add_option("--backend", backend, "cpu or torch")
      ->check(cli::IsMember({"cpu", "torch"}))
      ->capture_default_str();
  app.add_option("--device", device, "Where the torch backend computes: cpu or cuda")
      ->check(cli::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", threads, "Threads; 0: all that this process may use")
      ->check(cli::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--isa", isa,
                 "Instruction set of the cpu backend, by name (default: the best one here, or "
                 "$REPRISE_ISA)");
  app.add_option("--activations", activations,
                 "int8: activations are quantized where weights are; f32: for parity")
      ->check(cli::IsMember({"f32", "int8"}))
      ->capture_default_str();
  app.add_option("--kv", kv, "Element type of the KV cache: f32 or f16")
      ->check(cli::IsMember({"f32", "f16"}))
      ->capture_default_str();
  app.add_flag(
      "--last-gate", last_gate,
      "TroL: where the entries of trol_gating.pt differ, use the last one for every layer, "
      "as the official loader does");
}

void EngineFlags::add_chat_template(cli::App& app) {
  app.add_option("--chat-template", chat_template,
                 "Chat format by name, where the model's own is not recognised");
}

LoadedModelOptions EngineFlags::options() const {
  if (device != "cpu" && backend != "torch") {
    fail("--device {}: only --backend torch computes there", device);
  }
  LoadedModelOptions options;
  options.model = model;
  options.backend = backend;
  options.compute.threads = threads;
  options.compute.isa = isa;
  options.compute.device = device;
  options.compute.activations = activations == "f32" ? Activations::F32 : Activations::Int8;
  options.load.kv_type = kv == "f16" ? DType::F16 : DType::F32;
  options.load.last_gate = last_gate;
  options.chat_template = chat_template;
  return options;
}

void add_plan_options(cli::App& app, PlanOptions& options) {
  app.add_option("--plan", options.plan,
                 "Order of blocks: 0-23,10-14 runs 10 to 14 again; 10-14*3 three times, damped")
      ->type_name("PLAN");
  app.add_option("--passes", options.passes,
                 "Traversals of each layer in a prompt (TroL); 1: off, 0: the model's own")
      ->check(cli::Range(0, 4));
  app.add_option("--adaptive", options.skip_below,
                 "TroL: tokens whose mixing weight is below this leave the second visit of a layer "
                 "out; 0: none, exact")
      ->type_name("W")
      ->check(cli::Range(0.0f, 1.0f));
  static const std::map<std::string, MixTokens> kinds = {
      {"all", MixTokens::All}, {"image", MixTokens::Image}, {"text", MixTokens::Text}};
  app.add_option_function(
         "--traverse", [&options](const std::string& kind) { options.traverse = kinds.at(kind); },
         "TroL: tokens of a prompt that make the second visit")
      ->check(cli::IsMember({"all", "image", "text"}))
      ->default_str("all");
}

void print_json(const Json& json) {
  // Text of a model may end in the middle of a character; such bytes become U+FFFD.
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string human_count(int64_t count) {
  if (count >= 1'000'000'000) return fmt::format("{:.2f}B", static_cast<double>(count) * 1e-9);
  if (count >= 1'000'000) return fmt::format("{:.1f}M", static_cast<double>(count) * 1e-6);
  if (count >= 1'000) return fmt::format("{:.1f}k", static_cast<double>(count) * 1e-3);
  return std::to_string(count);
}

Progress::Progress(std::string label) : label_(std::move(label)), shown_(isatty(STDERR_FILENO)) {}

Progress::~Progress() { clear(); }

void Progress::clear() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
}

void Progress::update(int64_t done, int64_t total, const std::string& note) {
  if (!shown_ || total <= 0) return;
  constexpr int kWidth = 30;
  const auto filled = static_cast<size_t>(kWidth * done / total);
  fmt::print(stderr, "\r\x1b[K{} [{}{}] {}/{} {}", label_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), done, total, note);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace reprise::tools
