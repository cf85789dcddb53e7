#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <future>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "engine/model_text.h"
#include "model/save.h"
#include "train/recipe/assemble.h"
#include "train/checkpoint.h"
#include "train/plot.h"

namespace reprise {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Changes with the name and with any bit of any value.
uint64_t fingerprint(const std::string& name, const std::vector<float>& values) {
  return hash_floats(values, hash_bytes(name));
}

// Numbers that are no longer finite: the last checkpoint is better than the weights as they are.
class Diverged : public Error {
 public:
  using Error::Error;
};

[[noreturn]] void diverged(const Recipe& recipe, const std::string& what, int64_t step) {
  throw Diverged(fmt::format("{}: {} at step {}; the last checkpoint is from before",
                             recipe.path.string(), what, step));
}

// Gives the memory back, which assigning {} would not.
void drop_pixels(Batch& batch) { batch.pixels = std::vector<float>(); }

}  // namespace

std::vector<float> initial_values(const TensorSlot& slot, double std, uint64_t seed) {
  constexpr float kLayerScale = 0.1f;
  std::vector<float> values(static_cast<size_t>(num_elements(slot.shape)));
  const bool is_vector = slot.use == WeightUse::Vector;
  const bool layer_scale = slot.name.ends_with(".ls1") || slot.name.ends_with(".ls2");
  const bool token_or_table = slot.name.find("embedding") != std::string::npos;
  if (layer_scale) {
    std::fill(values.begin(), values.end(), kLayerScale);
  } else if (is_vector && !token_or_table) {
    const bool norm_weight = slot.name.ends_with(".weight");
    std::fill(values.begin(), values.end(), norm_weight ? 1.0f - slot.offset : 0.0f);
  } else if (!slot.name.ends_with(".bias")) {
    // By name, so that initial values don't depend on the order of tensors.
    const Philox random(seed, hash_bytes(slot.name));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(std) * random.normal(i);
  }
  return values;
}

LossAndGradients loss_and_gradients(Model& model, TrainBackend& backend, const Tensor& embeds,
                                    std::span<const int64_t> labels,
                                    std::vector<uint8_t> is_image) {
  const int64_t n = embeds.dim(0);
  std::vector<std::pair<std::string, Tensor>> weights;
  model.visit_tensors(
      [&](const TensorSlot& slot) { weights.push_back({slot.name, *slot.tensor}); });
  Rows rows;
  rows.segments.push_back({nullptr, 0, n, n, -1});
  for (int64_t i = 0; i < n; ++i) rows.positions.push_back(static_cast<int32_t>(i));
  rows.is_image = std::move(is_image);
  std::vector<int32_t> shifted(static_cast<size_t>(n), -100);
  int64_t counted = 0;
  for (size_t i = 1; i < labels.size(); ++i) {
    shifted[i - 1] = static_cast<int32_t>(labels[i]);
    counted += labels[i] != -100;
  }
  if (counted == 0) fail("labels: none of them counts, all are -100");
  const Plan plan = n > 1 ? model.prefill_plan() : model.decode_plan();
  const Tensor state = model.forward(plan, rows, embeds);
  const Tensor sum = backend.cross_entropy_sum(model.logits(model.final_norm(state)), shifted);
  const Tensor loss = backend.scale(sum, 1.0f / static_cast<float>(counted));
  backend.backward(loss);
  LossAndGradients result;
  result.loss = backend.to_host(loss)[0];
  for (const auto& [name, tensor] : weights)
    result.gradients.push_back({name, backend.gradient(tensor)});
  return result;
}

Trainer::Trainer(const Recipe& recipe, TrainBackend& backend, const TrainOptions& options)
    : recipe_(recipe), backend_(backend), options_(options) {
  std::error_code error;
  std::filesystem::create_directories(options_.output, error);
  if (!std::filesystem::is_directory(options_.output))
    fail("{}: can't be made a folder: {}", options_.output.string(),
         error ? error.message() : "it is a file");
  backend_.set_recording(true);
  backend_.set_bf16(recipe_.bf16);
  make_model();
  batches_ = std::make_unique<BatchMaker>(recipe_, model_->config(), *tokenizer_, make_format());
  plan_ = model_->prefill_plan();
  model_->visit_tensors([&](const TensorSlot& slot) {
    weights_.push_back({slot.name, *slot.tensor, slot.use != WeightUse::Vector});
  });
  choose_trainable();
  set_up_adapters();
  if (recipe_.gradient_checkpointing)
    model_->set_visit_wrapper([this](const Tensor& x, Model::Visitation visit) {
      return backend_.checkpoint(x, std::move(visit));
    });
}

void Trainer::make_model() {
  const auto initial = [&](const TensorSlot& slot) {
    return initial_values(slot, recipe_.init_std, recipe_.seed);
  };
  if (!recipe_.assembly.backbone.empty()) {
    Assembled parts = assemble(recipe_);
    model_ = Model::create(parts.config, backend_, parts.values);
    files_tokenizer_ = std::move(parts.tokenizer);
  } else if (recipe_.from.empty()) {
    const Json json = load_json(recipe_.config);
    model_ = Model::create(config_from_json(json, recipe_.config.string()), backend_, initial);
    files_tokenizer_ = read_tokenizer(recipe_.tokenizer);
  } else {
    model_ = Model::load(recipe_.from, backend_);
    files_tokenizer_ = recipe_.tokenizer.empty()
                           ? tokenizer_of(model_->files(), recipe_.path.string() +
                                                               ": name one with key "
                                                               "'model.tokenizer'")
                           : read_tokenizer(recipe_.tokenizer);
  }
  tokenizer_ = files_tokenizer_.make();
  if (tokenizer_->vocab_size() > model_->config().text.embed_rows)
    fail("{}: the tokenizer has {} tokens, the model's embedding {} rows", files_tokenizer_.where,
         tokenizer_->vocab_size(), model_->config().text.embed_rows);
}

ChatFormat Trainer::make_format() {
  if (const auto id = image_token_by_tokenizer(model_->config(), *tokenizer_))
    model_->set_image_token(*id);
  auto format = find_chat_format(recipe_.chat_format, model_->config(), tokenizer_.get(),
                                 files_tokenizer_.where);
  if (!format)
    fail("{}: key 'model.chat_format' is missing, and {} names none", recipe_.path.string(),
         model_->config().where);
  return *format;
}

Trainer::~Trainer() {
  backend_.set_recording(false);
  backend_.set_adapter_dropout(0);
}

void Trainer::choose_trainable() {
  const auto any = [](const std::vector<std::string>& patterns, const std::string& name) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const std::string& pattern) { return matches_pattern(pattern, name); });
  };
  for (const auto* patterns : {&recipe_.freeze, &recipe_.train_only})
    for (const std::string& pattern : *patterns)
      if (std::none_of(weights_.begin(), weights_.end(),
                       [&](const Weight& w) { return matches_pattern(pattern, w.name); }))
        fail("{}: pattern '{}' matches no tensor of the model", recipe_.path.string(), pattern);
  uint64_t frozen = 0;
  for (Weight& weight : weights_) {
    const bool wanted = recipe_.train_only.empty() || any(recipe_.train_only, weight.name);
    const bool on = wanted && !any(recipe_.freeze, weight.name);
    backend_.set_trainable(weight.tensor, on);
    weight.trained = on;
    if (on)
      trainable_.push_back(weight.tensor);
    else
      frozen ^= fingerprint(weight.name, backend_.to_host(weight.tensor));
  }
  frozen_ = fmt::format("{:016x}", frozen);
  if (trainable_.empty() && !recipe_.lora)
    fail("{}: freeze and train_only leave nothing to train", recipe_.path.string());
}

void Trainer::set_up_adapters() {
  backend_.set_adapter_dropout(recipe_.adapter_dropout);
  std::vector<std::string> trained;
  for (const Weight& weight : weights_)
    if (weight.trained) trained.push_back(weight.name);
  quantized_ = quantize_base(recipe_, *model_, backend_, trained);
  if (recipe_.quantize)
    write_quantization_log(options_.output / "quantization.jsonl", recipe_, quantized_);
  adapters_ = attach_adapters(recipe_, *model_, backend_);
  for (const TrainedAdapter& adapter : adapters_) {
    if (std::find(trained.begin(), trained.end(), adapter.target + ".weight") != trained.end())
      fail(
          "{}: key 'lora.targets': tensor '{}.weight' is trained itself; freeze it (run.freeze, "
          "run.train_only) or leave it out",
          recipe_.path.string(), adapter.target);
    for (const auto& [part, tensor] : {std::pair{".lora_A.weight", adapter.pair.a},
                                       std::pair{".lora_B.weight", adapter.pair.b}}) {
      backend_.set_trainable(tensor, true);
      weights_.push_back({adapter.target + part, tensor, /*decays=*/true, /*trained=*/true});
      trainable_.push_back(tensor);
    }
  }
}

int64_t Trainer::trainable_parameters() const {
  int64_t count = 0;
  for (const Tensor& tensor : trainable_) count += tensor.size();
  return count;
}

AnswerLoss Trainer::batch_loss(const Batch& batch) {
  const Tensor state = batch_state(*model_, plan_, batch);
  const Tensor counted = backend_.gather_rows(state, batch.target_rows);
  return answer_loss(backend_, model_->logits(model_->final_norm(counted)), batch.targets,
                     batch.answers, recipe_.po);
}

std::vector<Batch> Trainer::make_batches(int64_t index) const {
  std::vector<Batch> micro;
  for (int64_t m = 0; m < recipe_.accumulate; ++m) {
    micro.push_back(batches_->make(index * recipe_.accumulate + m));
    // The pixels of a step of hundreds of pictures are gigabytes, so each call's are made anew.
    if (recipe_.accumulate > 1) drop_pixels(micro.back());
  }
  return micro;
}

StepReport Trainer::step(int64_t index, std::span<Batch> micro) {
  StepReport report;
  report.step = index + 1;
  report.steps = recipe_.steps;
  // The mean runs over all counted tokens of the step, so their number must be known first.
  int64_t counted = 0, pairs = 0;
  for (const Batch& batch : micro) {
    counted += batch.right_targets();
    pairs += batch.pairs();
    report.tokens += batch.rows.size();
  }
  backend_.zero_gradients(trainable_);
  double preference = 0, preferred = 0;
  for (size_t m = 0; m < micro.size(); ++m) {
    Batch& batch = micro[m];
    const int64_t number = index * recipe_.accumulate + static_cast<int64_t>(m);
    if (batch.tiles > 0 && batch.pixels.empty()) batch.pixels = batches_->make(number).pixels;
    backend_.begin_pass(recipe_.seed, static_cast<uint64_t>(number));
    const AnswerLoss parts = batch_loss(batch);
    Tensor loss =
        backend_.scale(parts.sft, 1.0f / static_cast<float>(std::max<int64_t>(1, counted)));
    if (parts.preference) {
      loss = backend_.add(loss, parts.preference, 1.0f / static_cast<float>(pairs));
      preference += backend_.to_host(parts.preference)[0] / static_cast<double>(pairs);
      for (float margin : backend_.to_host(parts.margins))
        preferred += (margin + recipe_.po.gamma > 0) / static_cast<double>(pairs);
    }
    report.loss += backend_.to_host(loss)[0];
    backend_.backward(loss);
    drop_pixels(batch);
  }
  if (pairs > 0) {
    report.preference_loss = preference;
    report.preferred = preferred;
  }
  if (!std::isfinite(report.loss))
    diverged(recipe_, fmt::format("the loss is {}", report.loss), index + 1);
  report.gradient_norm = backend_.clip_gradients(trainable_, recipe_.optimizer.clip);
  if (!std::isfinite(report.gradient_norm))
    diverged(recipe_, fmt::format("the gradients' norm is {}", report.gradient_norm), index + 1);
  report.learning_rate =
      learning_rate(recipe_.optimizer, index, recipe_.steps, std::min(1.0, time_used()));
  AdamWOptions adam;
  adam.lr = static_cast<float>(report.learning_rate);
  adam.beta1 = static_cast<float>(recipe_.optimizer.beta1);
  adam.beta2 = static_cast<float>(recipe_.optimizer.beta2);
  adam.eps = static_cast<float>(recipe_.optimizer.eps);
  for (const Weight& weight : weights_) {
    if (!weight.trained) continue;
    adam.weight_decay = weight.decays ? static_cast<float>(recipe_.optimizer.weight_decay) : 0.0f;
    backend_.adamw_step(weight.tensor, adam);
  }
  return report;
}

void Trainer::validate(StepReport& report) {
  const int64_t size = std::min(batches_->validation_size(), recipe_.validation_limit);
  if (size == 0) return;
  backend_.set_recording(false);
  double loss = 0;
  int64_t tokens = 0, answers = 0, right = 0;
  for (int64_t begin = 0; begin < size; begin += recipe_.batch) {
    const Batch batch = batches_->validation(begin, std::min(size, begin + recipe_.batch));
    const Tensor state = batch_state(*model_, plan_, batch);
    const Tensor logits =
        model_->logits(model_->final_norm(backend_.gather_rows(state, batch.target_rows)));
    loss += backend_.to_host(backend_.cross_entropy_sum(logits, batch.targets))[0];
    tokens += static_cast<int64_t>(batch.targets.size());
    const std::vector<float> values = backend_.to_host(logits);
    const int64_t vocab = logits.cols();
    for (const AnswerTargets& answer : batch.answers) {
      bool all_right = true;
      for (int64_t i = answer.first; i < answer.first + answer.count; ++i) {
        const float* row = values.data() + i * vocab;
        all_right &=
            std::max_element(row, row + vocab) - row == batch.targets[static_cast<size_t>(i)];
      }
      ++answers;
      right += all_right;
    }
  }
  backend_.set_recording(true);
  report.validation_loss = loss / static_cast<double>(std::max<int64_t>(1, tokens));
  if (!std::isfinite(*report.validation_loss))
    diverged(recipe_, fmt::format("the validation loss is {}", *report.validation_loss),
             report.step);
  report.validation_exact =
      static_cast<double>(right) / static_cast<double>(std::max<int64_t>(1, answers));
}

double Trainer::time_used() const {
  if (recipe_.minutes <= 0) return 0;
  return (seconds_before_ + seconds_since(start_)) / (60 * recipe_.minutes);
}

void Trainer::save_checkpoint(int64_t step) {
  Checkpoint checkpoint;
  checkpoint.step = step;
  checkpoint.seconds = seconds_before_ + seconds_since(start_);
  checkpoint.frozen = frozen_;
  checkpoint.recipe = identity_text(recipe_);
  for (const Weight& weight : weights_) {
    if (!weight.trained) continue;
    checkpoint.weights.push_back({weight.name, weight.tensor.shape(),
                                  backend_.to_host(weight.tensor),
                                  backend_.adam_state(weight.tensor)});
    // A good checkpoint is never replaced by one that nothing can be made of.
    if (!std::ranges::all_of(checkpoint.weights.back().values,
                             [](float x) { return std::isfinite(x); }))
      diverged(recipe_, fmt::format("tensor '{}' is NaN or infinite", weight.name), step);
  }
  write_checkpoint(options_.output / "checkpoint.safetensors", checkpoint);
}

int64_t Trainer::load_checkpoint() {
  const auto path = options_.output / "checkpoint.safetensors";
  const Checkpoint checkpoint = read_checkpoint(path);
  if (checkpoint.weights.size() != trainable_.size())
    fail("{}: has {} trained weights, the recipe trains {}", path.string(),
         checkpoint.weights.size(), trainable_.size());
  for (const Weight& weight : weights_) {
    if (!weight.trained) continue;
    const auto it = std::find_if(checkpoint.weights.begin(), checkpoint.weights.end(),
                                 [&](const auto& entry) { return entry.name == weight.name; });
    if (it == checkpoint.weights.end() || it->shape != weight.tensor.shape())
      fail("{}: tensor '{}' of shape {} is missing: the checkpoint is another model's",
           path.string(), weight.name, shape_string(weight.tensor.shape()));
    backend_.assign(weight.tensor, it->values);
    if (it->adam.step > 0) backend_.set_adam_state(weight.tensor, it->adam);
  }
  if (checkpoint.frozen != frozen_)
    fail(
        "{}: the frozen weights are not the ones it was trained with: the model files of {} have "
        "changed",
        path.string(), recipe_.path.string());
  check_same_recipe(recipe_, checkpoint.recipe, path);
  if (checkpoint.step > recipe_.steps)
    fail("{}: {} steps are done, the recipe has {}", path.string(), checkpoint.step, recipe_.steps);
  seconds_before_ = checkpoint.seconds;
  return checkpoint.step;
}

void Trainer::write_log(const StepReport& report) {
  history_.push_back(report);
  append_log(options_.output / "log.jsonl", report);
}

void Trainer::export_model() {
  if (recipe_.lora && recipe_.lora->merged)
    for (const TrainedAdapter& adapter : adapters_) backend_.merge_adapter(adapter.weight);
  else if (recipe_.lora)
    save_adapters(options_.output / "adapters.safetensors", recipe_, backend_, adapters_);
  SaveOptions save;
  save.name = recipe_.path.stem().string();
  save.chat_format = recipe_.chat_format;
  files_tokenizer_.write(save.metadata);
  save_gguf(*model_, options_.output / "model.gguf", save);
}

bool Trainer::run() {
  const auto checkpoint = options_.output / "checkpoint.safetensors";
  int64_t first = 0;
  if (options_.resume) {
    first = load_checkpoint();
    history_ = read_log(options_.output / "log.jsonl", first);
  } else if (std::filesystem::exists(checkpoint)) {
    fail("{}: exists; use --resume to go on from it, or another output folder",
         checkpoint.string());
  } else {
    std::filesystem::remove(options_.output / "log.jsonl");
  }
  rewrite_log(options_.output / "log.jsonl", history_);
  start_ = Clock::now();
  const int64_t end = time_used() < 1 ? recipe_.steps : first;  // a budget may be used up already
  int64_t saved = first;
  for (int64_t index = first; index < end; ++index) {
    const auto start = Clock::now();
    StepReport report;
    try {
      std::vector<Batch> micro = make_batches(index);
      report = step(index, micro);
    } catch (const Diverged&) {
      throw;
    } catch (const Error& error) {  // a picture that is gone, say: nothing done is lost by it
      if (index == saved) throw;
      try {
        save_checkpoint(index);
      } catch (const Error& other) {
        fail("{}\n{}", error.what(), other.what());
      }
      throw;
    }
    report.tokens_per_second = static_cast<double>(report.tokens) / seconds_since(start);
    const int64_t done = index + 1;
    const double per_step = seconds_since(start_) / static_cast<double>(done - first);
    report.seconds_left = per_step * static_cast<double>(recipe_.steps - done);
    if (recipe_.minutes > 0)
      report.seconds_left =
          std::min(report.seconds_left, std::max(0.0, 60 * recipe_.minutes * (1 - time_used())));
    const bool last = done == recipe_.steps || time_used() >= 1;
    if (done % recipe_.validation_every == 0 || last) validate(report);
    if (done % recipe_.log_every == 0 || last || report.validation_loss) write_log(report);
    if (options_.progress) options_.progress(report);
    const bool stop = (options_.stop_after > 0 && done >= options_.stop_after) ||
                      (options_.cancelled && options_.cancelled->load());
    if (done % recipe_.checkpoint_every == 0 || last || stop) {
      save_checkpoint(done);
      saved = done;
      write_plot(options_.output / "plot.svg", history_);
    }
    if (last) break;
    if (stop) return false;
  }
  export_model();
  return true;
}

}  // namespace reprise
