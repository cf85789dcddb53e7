#include "train/trainer.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "model/save.h"
#include "train/fingerprint.h"
#include "train/loop/diverged.h"
#include "train/loop/gradients.h"
#include "train/loop/log.h"
#include "train/loop/optimizer.h"
#include "train/loop/plot.h"
#include "train/loop/validation.h"

namespace reprise {
namespace {

constexpr const char* kCheckpoint = "checkpoint.safetensors";
constexpr const char* kLog = "log.jsonl";

// What the model of a recipe is made of, by the key that says so.
std::string model_key(const Recipe& recipe) {
  if (!recipe.assembly.backbone.empty()) return "model.backbone";
  return recipe.from.empty() ? "model.config" : "model.from";
}

}  // namespace

Trainer::Trainer(const Recipe& recipe, TrainBackend& backend, const TrainOptions& options)
    : recipe_(recipe), backend_(backend), options_(options) {
  // In the order of what it takes: what can't work is said before texts are tokenized.
  if (options_.resume) {
    resumed_ = read_checkpoint(file(kCheckpoint));
    check_checkpoint(recipe_, *resumed_, file(kCheckpoint));
  } else if (std::filesystem::exists(file(kCheckpoint))) {
    fail("{}: exists; use --resume to go on from it, or another output folder",
         file(kCheckpoint).string());
  }
  folder_ = std::make_unique<StartedFolder>(options_.output);
  backend_.set_recording(true);
  backend_.set_bf16(recipe_.bf16);
  try {
    prepare();
  } catch (...) {  // there will be no destructor
    release_backend();
    throw;
  }
}

void Trainer::prepare() {
  made_ = make_train_model(recipe_, backend_);
  stop_if_asked();
  objective_ = make_objective(recipe_, backend_, {*made_.model, made_.tokenizer.get()});
  stop_if_asked();
  plan_ = made_.model->prefill_plan();
  Fingerprints files = objective_->fingerprints();
  files[model_key(recipe_)] = config_fingerprint(made_.model->config());
  weights_ = choose_weights(recipe_, *made_.model, backend_);
  if (resumed_) {
    check_weights(recipe_, weights_, *resumed_, file(kCheckpoint));
    check_files(recipe_, files, *resumed_, file(kCheckpoint));
  }
  if (recipe_.quantize)
    write_quantization_log(file("quantization.jsonl"), recipe_, weights_.quantized);
  stop_if_asked();
  batches_ = make_batch_source(recipe_, {.config = made_.model->config(),
                                         .tokenizer = made_.tokenizer.get(),
                                         .format = made_.format,
                                         .wrong_answers = objective_->needs().wrong_answers,
                                         .cache = options_.output,
                                         .may_stop = [this] { stop_if_asked(); }});
  Fingerprints data = batches_->fingerprints();
  if (resumed_) check_files(recipe_, data, *resumed_, file(kCheckpoint));
  files.merge(data);
  if (recipe_.gradient_checkpointing)
    made_.model->set_visit_wrapper([this](const Tensor& x, Model::Visitation visit) {
      return backend_.checkpoint(x, std::move(visit));
    });
  run_ = std::make_unique<TrainRun>(TrainRun{recipe_, backend_, *made_.model, plan_, weights_,
                                             *objective_, *batches_, std::move(files)});
}

void Trainer::release_backend() {
  backend_.set_recording(false);
  backend_.set_adapter_dropout(0);
}

Trainer::~Trainer() { release_backend(); }

void Trainer::stop_if_asked() const {
  if (options_.cancelled && options_.cancelled->load()) throw StoppedAtStart();
}

double Trainer::time_used() const {
  if (recipe_.minutes <= 0) return 0;
  return (seconds_before_ + seconds_since(start_)) / (60 * recipe_.minutes);
}

int64_t Trainer::begin() {
  stop_if_asked();
  if (resumed_) {
    restore_checkpoint(*run_, *resumed_, file(kCheckpoint));
    seconds_before_ = resumed_->seconds;
    saved_ = resumed_->step;
    resumed_.reset();
    history_ = read_log(file(kLog), saved_);
  } else {
    std::filesystem::remove(file(kLog));
  }
  folder_->keep();
  rewrite_log(file(kLog), history_);
  position_ = batches_->position();
  start_ = Clock::now();
  return saved_;
}

StepReport Trainer::step(int64_t index) {
  try {
    const auto begin = Clock::now();
    std::vector<Batch> batches = next_batches(*run_);
    const double data = seconds_since(begin);
    StepReport report = compute_gradients(*run_, index, batches);
    const auto update = Clock::now();
    optimizer_step(*run_, index, time_used(), report);
    report.seconds["data"] = data;
    report.seconds["optimizer"] = seconds_since(update);
    position_ = batches_->position();
    return report;
  } catch (const Diverged&) {
    throw;
  } catch (const Error& error) {  // a picture that is gone, say: nothing done is lost by it
    if (index == saved_) throw;
    try {
      save_checkpoint(index);
    } catch (const Error& other) {
      fail("{}\n{}", error.what(), other.what());
    }
    throw;
  }
}

void Trainer::measure(StepReport& report, int64_t first, Clock::time_point step_start) const {
  report.tokens_per_second = static_cast<double>(report.tokens) / seconds_since(step_start);
  const double per_step = seconds_since(start_) / static_cast<double>(report.step - first);
  report.seconds_left = per_step * static_cast<double>(recipe_.steps - report.step);
  if (recipe_.minutes > 0)
    report.seconds_left =
        std::min(report.seconds_left, std::max(0.0, 60 * recipe_.minutes * (1 - time_used())));
}

bool Trainer::run() {
  const int64_t first = begin();
  const int64_t end = time_used() < 1 ? recipe_.steps : first;  // a budget may be used up already
  for (int64_t index = first; index < end; ++index) {
    const auto step_start = Clock::now();
    next(fmt::format("step {} of {}", index + 1, recipe_.steps));
    StepReport report = step(index);
    measure(report, first, step_start);
    const int64_t done = report.step;
    const bool last = done == recipe_.steps || time_used() >= 1;
    if (done % recipe_.validation_every == 0 || last) {
      next(fmt::format("validation after step {}", done));
      validate(*run_, report);
    }
    if (done % recipe_.log_every == 0 || last || report.validation_loss) {
      history_.push_back(report);
      append_log(file(kLog), report);
    }
    if (options_.progress) options_.progress(report);
    const bool stop = (options_.stop_after > 0 && done >= options_.stop_after) ||
                      (options_.cancelled && options_.cancelled->load());
    if (done % recipe_.checkpoint_every == 0 || last || stop) {
      next(fmt::format("writing the checkpoint of step {}", done));
      save_checkpoint(done);
      write_plot(file("plot.svg"), history_);
    }
    if (last) break;
    if (stop) return false;
  }
  next("writing model.gguf");
  export_model();
  return true;
}

void Trainer::save_checkpoint(int64_t step) {
  Checkpoint checkpoint = take_checkpoint(*run_, step);
  checkpoint.seconds = seconds_before_ + seconds_since(start_);
  checkpoint.data = position_;
  write_checkpoint(file(kCheckpoint), checkpoint);
  saved_ = step;
}

void Trainer::export_model() {
  if (recipe_.lora && recipe_.lora->merged)
    for (const TrainedAdapter& adapter : weights_.adapters) backend_.merge_adapter(adapter.weight);
  else if (recipe_.lora)
    save_adapters(file("adapters.safetensors"), recipe_, backend_, weights_.adapters);
  SaveOptions save;
  save.name = recipe_.path.stem().string();
  save.chat_format = recipe_.chat_format;
  if (made_.tokenizer) made_.tokenizer_files.write(save.metadata);
  save_gguf(*made_.model, file("model.gguf"), save);
}

}  // namespace reprise
