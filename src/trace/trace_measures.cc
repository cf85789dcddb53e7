#include "trace/trace_measures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/scheme_type.h"

namespace reprise {
namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

// In the words of the scheme whose model it is; empty where it has none of that source.
TraceMeasure scheme_measure(const std::string& scheme, SchemeMeasure::Source source) {
  TraceMeasure m;
  const SchemeType* type = find_scheme(scheme);
  if (!type) return m;
  for (const SchemeMeasure& known : type->measures) {
    if (known.source != source) continue;
    m.key = known.key;
    m.name = known.name;
    m.question = known.question;
    m.about = known.about;
    m.bounded = known.bounded;
    m.low = known.low;
    m.high = known.high;
  }
  return m;
}

TraceMeasure update_measure() {
  TraceMeasure m;
  m.key = "update";
  m.name = "Update per visit";
  m.question = "How far does each visit move the state?";
  m.about =
      "Every visit of a block takes a token's state x and gives F(x). Shown is how far it "
      "moved the state relative to its size: ‖F(x) − x‖ / ‖x‖. Where a block is visited again "
      "(replay, loops, traversal), compare its visits: a second one that moves a token as far as the first still "
      "does work, one near zero has settled. Tokens that a visit did not run for, such as the "
      "answer's last, are shown hatched.";
  m.low = "stays";
  m.high = "moves far";
  return m;
}

std::string ordinal(int n) {
  const int tens = n / 10 % 10, ones = n % 10;
  const char* ending = tens == 1   ? "th"
                       : ones == 1 ? "st"
                       : ones == 2 ? "nd"
                       : ones == 3 ? "rd"
                                   : "th";
  return fmt::format("{}{}", n, ending);
}

// Whether rows may leave the visit at this step out.
bool may_skip(const Plan& plan, size_t step) {
  if (step + 1 >= plan.steps.size()) return false;
  const auto* mix = std::get_if<Mix>(&plan.steps[step + 1].op);
  return mix != nullptr && mix->skips();
}

// A visit's column is known by the KV row it writes, which prefill and decode plans share; one that
// writes none by a number below 0, of its place in the plan.
int visit_key(const Plan& plan, size_t index) {
  const int write = std::get<Visit>(plan.steps[index].op).write;
  return write >= 0 ? write : -1 - static_cast<int>(index);
}

// Row by row ‖a − b‖ / ‖b‖ of [rows, ...], summed in double. 0 where nothing moved, none where
// something did from an all-zero row.
std::vector<float> relative_distance(Backend& be, const Tensor& a, const Tensor& b) {
  const std::vector<float> change = be.to_host(be.add(a, b, -1.0f)), base = be.to_host(b);
  const int64_t rows = b.dim(0), width = rows == 0 ? 0 : b.size() / rows;
  std::vector<float> out;
  for (int64_t r = 0; r < rows; ++r) {
    double moved = 0, size = 0;
    for (int64_t i = r * width; i < (r + 1) * width; ++i) {
      const double c = change[static_cast<size_t>(i)], s = base[static_cast<size_t>(i)];
      moved += c * c;
      size += s * s;
    }
    out.push_back(moved == 0  ? 0.0f
                  : size == 0 ? kNone
                              : static_cast<float>(std::sqrt(moved / size)));
  }
  return out;
}

}  // namespace

TraceMeasures::TraceMeasures(Model& model, const Plan& prefill, const Plan& decode, int64_t tokens)
    : model_(model), tokens_(tokens) {
  using Source = SchemeMeasure::Source;
  const std::string& scheme = model.config().scheme;
  mix_.measure = scheme_measure(scheme, Source::MixWeight);
  second_look_.measure = scheme_measure(scheme, Source::MixEffect);
  gate_.measure = scheme_measure(scheme, Source::HeadGate);
  gate_effect_.measure = scheme_measure(scheme, Source::HeadEffect);
  update_.measure = update_measure();
  add_columns(prefill);
  add_columns(decode);  // only rows that the first one doesn't write
}

void TraceMeasures::add_column(Part& part, int kv_row, TraceColumn column) {
  part.column_of[kv_row] = part.measure.columns.size();
  part.measure.columns.push_back(std::move(column));
  part.measure.tokens = tokens_;
  part.measure.values.resize(part.measure.values.size() + static_cast<size_t>(tokens_), kNone);
}

void TraceMeasures::add_columns(const Plan& plan) {
  const bool repeats = plan.visits() != plan.unique_blocks();
  bool mixes = false;
  for (const Step& step : plan.steps) mixes = mixes || std::holds_alternative<Mix>(step.op);
  Visit last;
  int key = 0;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    if (const auto* visit = std::get_if<Visit>(&step.op)) {
      last = *visit;
      key = visit_key(plan, i);
      if (update_.column_of.contains(key)) continue;
      const int time = ++visits_of_block_[visit->block];
      TraceColumn column;
      column.block = visit->block;
      column.label = step.label;
      column.brief = std::to_string(visit->block);
      if (!repeats) {
        column.name = fmt::format("layer {}", visit->block);
      } else if (mixes) {
        column.name = fmt::format("layer {}, {} look", visit->block, ordinal(time));
      } else {
        column.name =
            fmt::format("visit {}: block {}", update_.measure.columns.size(), visit->block);
        if (time > 1) column.name += fmt::format(", {} time", ordinal(time));
      }
      if (time > 1) column.brief += fmt::format(" ({})", time);
      add_column(update_, key, std::move(column));
    } else if (std::holds_alternative<Mix>(step.op) && !mix_.column_of.contains(key)) {
      TraceColumn column;
      column.block = last.block;
      column.label = step.label;
      column.name = fmt::format("layer {}", last.block);
      column.brief = std::to_string(last.block);
      if (const int time = visits_of_block_[last.block]; time > 2) {  // more passes than two
        column.name += fmt::format(", {} look", ordinal(time));
        column.brief += fmt::format(" ({})", time);
      }
      add_column(mix_, key, column);
      add_column(second_look_, key, std::move(column));
    }
  }
}

void TraceMeasures::begin_call(int64_t first) {
  first_ = first;
  before_visit_ = Tensor();
  kv_row_ = -1;
  o1_ = o2_ = Tensor();
}

float* TraceMeasures::values_of(Part& part, int kv_row) {
  const auto column = part.column_of.find(kv_row);
  REPRISE_CHECK(column != part.column_of.end(), "no column for KV row {}", kv_row);
  return part.measure.values.data() + static_cast<int64_t>(column->second) * tokens_ + first_;
}

void TraceMeasures::on_value(const ValueSeen& seen) {
  if (seen.name == "mix_w") {
    const std::vector<float> w = model_.backend().to_host(seen.value);
    std::copy(w.begin(), w.end(), values_of(mix_, kv_row_));
  } else if (std::holds_alternative<Visit>(seen.step().op)) {
    if (seen.name == "o1") o1_ = seen.value;
    if (seen.name == "o2") o2_ = seen.value;
    if (seen.name == "gate_w") observe_gate(visit_key(seen.plan, seen.index), seen.value);
  }
}

void TraceMeasures::on_step(const StepSeen& seen) {
  Backend& be = model_.backend();
  if (std::holds_alternative<Visit>(seen.step().op)) {
    REPRISE_CHECK(first_ + seen.after.dim(0) <= tokens_, "more tokens than are traced");
    kv_row_ = visit_key(seen.plan, seen.index);
    before_visit_ = seen.before;
    std::vector<float> update = relative_distance(be, seen.after, seen.before);
    // Adaptive traversal: a row that left the visit out comes back as it was.
    if (may_skip(seen.plan, seen.index)) std::replace(update.begin(), update.end(), 0.0f, kNone);
    std::copy(update.begin(), update.end(), values_of(update_, kv_row_));
  } else if (std::holds_alternative<Mix>(seen.step().op)) {
    const std::vector<float> change = relative_distance(be, seen.after, before_visit_);
    std::copy(change.begin(), change.end(), values_of(second_look_, kv_row_));
  }
}

void TraceMeasures::observe_gate(int key, const Tensor& gate) {
  Backend& be = model_.backend();
  TraceMeasure& m = gate_.measure;
  const int64_t rows = gate.dim(0), heads = gate.dim(1);
  if (m.heads == 0) {
    m.heads = static_cast<int>(heads);
    std::map<size_t, int> kv_row_of;  // the same columns in the same order as the visits
    for (const auto& [kv_row, column] : update_.column_of) kv_row_of[column] = kv_row;
    for (const auto& [column, kv_row] : kv_row_of) {
      add_column(gate_, kv_row, update_.measure.columns[column]);
      add_column(gate_effect_, kv_row, update_.measure.columns[column]);
    }
    m.by_head.assign(m.columns.size() * static_cast<size_t>(heads * tokens_), kNone);
  }
  REPRISE_CHECK(heads == m.heads && first_ + rows <= tokens_);
  const std::vector<float> w = be.to_host(gate);
  float* mean = values_of(gate_, key);
  const auto column = static_cast<int64_t>(gate_.column_of.at(key));
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t h = 0; h < heads; ++h) {
      const float value = w[static_cast<size_t>(r * heads + h)];
      m.by_head[static_cast<size_t>((column * heads + h) * tokens_ + first_ + r)] = value;
      sum += value;
    }
    mean[r] = static_cast<float>(sum / static_cast<double>(heads));
  }
  if (!o1_ || !o2_) return;
  // w o1 + (1 - w) o2 is what went on; its distance to o1 alone is the phantom half's doing.
  const Tensor weight = be.reshape(gate, {rows, heads, 1});
  const std::vector<float> change = relative_distance(be, be.lerp(o2_, o1_, weight), o1_);
  std::copy(change.begin(), change.end(), values_of(gate_effect_, key));
  o1_ = o2_ = Tensor();
}

std::vector<TraceMeasure> TraceMeasures::finish() {
  std::vector<TraceMeasure> measures;
  for (Part* part : {&mix_, &second_look_, &gate_, &gate_effect_, &update_})
    if (!part->measure.columns.empty() && !part->measure.key.empty())
      measures.push_back(std::move(part->measure));
  return measures;
}

}  // namespace reprise
