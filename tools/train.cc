// `reprise train`: fine-tuning, or language modelling with a teacher, from a YAML recipe on the
// torch backend.
#include <fmt/format.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <climits>

#include "backend/factory.h"
#include "backend/train_backend.h"
#include "tools/commands.h"
#include "tools/heartbeat.h"
#include "tools/interrupt.h"
#include "tools/options.h"
#include "train/trainer.h"

namespace reprise::tools {
namespace {

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  if (whole >= 3600) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  return fmt::format("{}m{:02}s", whole / 60, whole % 60);
}

// A step allocates and frees the same large blocks again and again. glibc gives those back to the
// system, which then clears their pages anew at each use: a tenth of a step's time on a CPU.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// Who watches a log shouldn't wonder for longer whether training goes on.
constexpr std::chrono::seconds kMostSilence{10};

class TrainCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Trains a model from a recipe (needs the torch backend)");
    app.footer(
        "Recipes say what is learned: answers to questions (loss: sft, sft+po) or texts (lm, with\n"
        "distill from a teacher and early_exit for looped models).\n"
        "The folder gets log.jsonl, plot.svg, checkpoint.safetensors and, at the end, model.gguf.\n"
        "Ctrl-C (TERM, HUP) stops after the current step and leaves a checkpoint; --resume goes on\n"
        "from it.\n"
        "Example: reprise train recipes/tiny-trol/recipe.yaml --out runs/tiny-trol");
    app.add_option("RECIPE", recipe_, "Recipe, YAML (see docs/training.md)")->required();
    app.add_option("--out", out_, "Folder for everything the run writes")->required();
    app.add_flag("--resume", options_.resume, "Go on from the folder's checkpoint");
    app.add_option("--stop-after", options_.stop_after,
                   "Stop with a checkpoint when this many steps are done")
        ->check(cli::Range(int64_t{1}, int64_t{1} << 40));
    app.add_option("--threads", backend_.threads, "Threads; 0: all this process may use")
        ->check(cli::Range(0, 4096));
    app.add_option("--device", backend_.device, "cpu or cuda")
        ->check(cli::IsMember({"cpu", "cuda"}))
        ->capture_default_str();
  }

  int run() override {
    keep_freed_memory();
    const Recipe recipe = load_recipe(recipe_);
    Progress progress("training");
    Heartbeat heartbeat(kMostSilence, [&](const std::string& line) {
      progress.clear();
      print_line(line);
    });
    heartbeat.doing("loading the torch backend");
    const auto backend = make_torch_backend(backend_);
    const InterruptScope interrupt;
    options_.output = out_;
    options_.cancelled = &interrupt.flag();
    options_.stage = [&](const std::string& what) { heartbeat.doing(what); };
    options_.progress = [&](const StepReport& report) {
      show(report, recipe, progress, heartbeat);
    };
    try {
      return train(recipe, *backend, progress, heartbeat);
    } catch (const StoppedAtStart&) {
      fmt::print(stderr, "reprise: interrupted before the first step; nothing was written\n");
      return interrupted_exit();
    }
  }

 private:
  static void print_line(const std::string& line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  int train(const Recipe& recipe, TrainBackend& backend, Progress& progress, Heartbeat& heartbeat) {
    heartbeat.doing("preparing the model and its data");
    heartbeat.say(
        [&] { print_line(fmt::format("{}: preparing the model and its data", recipe_)); });
    Trainer trainer(recipe, backend, options_);
    heartbeat.say([&] {
      print_line(fmt::format("{}: {} parameters, {} trained; {} steps on {}", recipe_,
                             human_count(trainer.model().parameters()),
                             human_count(trainer.trainable_parameters()), recipe.steps,
                             backend.description()));
      show_quantized(trainer.quantized());
    });
    const bool done = trainer.run();
    heartbeat.doing("");
    progress.clear();
    if (done)
      fmt::print("done: {}/model.gguf\n", out_);
    else
      fmt::print("stopped; '--resume' goes on from {}/checkpoint.safetensors\n", out_);
    return done ? 0 : interrupted_exit();
  }

  void show_quantized(const std::vector<QuantizedTensor>& tensors) const {
    if (tensors.empty()) return;
    double sum = 0;
    const QuantizedTensor* worst = &tensors[0];
    for (const QuantizedTensor& tensor : tensors) {
      sum += tensor.error.relative_rms;
      if (tensor.error.relative_rms > worst->error.relative_rms) worst = &tensor;
    }
    fmt::print(
        "{} matrices in few bits: relative error {:.4f} on average, {:.4f} at most ({}); all in "
        "{}/quantization.jsonl\n",
        tensors.size(), sum / static_cast<double>(tensors.size()), worst->error.relative_rms,
        worst->name, out_);
    std::fflush(stdout);
  }

  static void show(const StepReport& report, const Recipe& recipe, Progress& progress,
                   Heartbeat& heartbeat) {
    const std::string note = fmt::format("loss {:.4f}  {:.0f} tokens/s  {} left", report.loss,
                                         report.tokens_per_second, duration(report.seconds_left));
    if (!report.validation_loss && report.step % (10 * recipe.log_every) != 0 && !heartbeat.due()) {
      heartbeat.draw([&] { progress.update(report.step, report.steps, note); });
      return;
    }
    std::string line = fmt::format("step {}/{}  {}  lr {:.2e}  gradient {:.2f}", report.step,
                                   report.steps, note, report.learning_rate, report.gradient_norm);
    for (const auto& [name, value] : report.values) line += fmt::format("  {} {:.4f}", name, value);
    if (report.validation_loss)
      line += fmt::format("  validation loss {:.4f}", *report.validation_loss);
    if (report.validation_exact)
      line += fmt::format(", exact {:.1f}%", 100 * *report.validation_exact);
    heartbeat.say([&] {
      progress.clear();
      print_line(line);
      progress.update(report.step, report.steps, note);
    });
  }

  std::string recipe_;
  std::string out_;
  TrainOptions options_;
  BackendOptions backend_;
};

}  // namespace

std::unique_ptr<Command> make_train_command() { return std::make_unique<TrainCommand>(); }

}  // namespace reprise::tools
