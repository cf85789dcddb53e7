// Requests that run beside each other never disturb each other: every case of a golden model
// (texts, pictures, both rows of its batch cases) in one set of forward calls, prompts in chunks
// beside prompts in one piece beside decode steps. On the cpu backend the bits are those of the
// request run alone; everywhere the logits are what the official code gives a request alone, also
// where rope depends on a request's length and the official batch goes wrong (golden READMEs).
#include <gtest/gtest.h>

#include <cstring>

#include "engine/images.h"
#include "support/golden.h"

namespace reprise::test {
namespace {

constexpr const char* kModels[] = {"phantom/qwen2-vit",     "phantom/qwen2-vit-448",
                                   "phantom/phi3-vit",      "phantom/phi3-vit-window",
                                   "phantom/internlm2-vit", "phantom/internlm2-vit-ntk",
                                   "trol/phi3-vit",         "trol/phi3-vit-window",
                                   "trol/internlm2-clip",   "trol/internlm2-clip-ntk"};
constexpr const char* kCases[] = {"case-text", "case-image", "case-batch2", "case-batch2-image"};

struct Request {
  GoldenCase golden;  // of its tensors only logits and tokens
  TokenPrompt prompt;
  std::vector<int32_t> tokens;  // the prompt's and the answer's, but for its last
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
};

// Part of a forward call: the next `count` tokens of a request.
struct Part {
  size_t request = 0;
  int64_t count = 0;
};
using Schedule = std::vector<std::vector<Part>>;

std::vector<Request> make_requests(LoadedModel& loaded, const std::filesystem::path& folder) {
  std::vector<Request> requests;
  for (const char* name : kCases) {
    const std::filesystem::path file = folder / (std::string(name) + ".safetensors");
    if (!std::filesystem::exists(file)) continue;
    for (GoldenCase& golden : load_golden_cases(file)) {
      std::erase_if(golden.expected, [](const auto& entry) {
        return entry.first != "logits" && entry.first != "decode.logits" && entry.first != "rows";
      });
      Request request;
      request.prompt.ids = golden.inputs.ids;
      if (const auto& pixels = golden.inputs.pixels) {
        request.prompt.image_rows =
            encode_pixels(loaded.model(), {pixels->shape[0], to_floats(*pixels)});
      } else if (golden.inputs.bytes) {
        continue;  // one request with a big picture is in golden_test.cc
      }
      mark_placeholders(loaded.config(), request.prompt, golden.name);
      request.tokens = golden.inputs.ids;
      const TensorView& steps = golden.expected.at("decode.logits");  // [steps, vocab]
      const std::vector<float> logits = to_floats(steps);
      const auto vocab = static_cast<size_t>(steps.shape[1]);
      for (size_t row = 0; row + 1 < static_cast<size_t>(steps.shape[0]); ++row) {
        const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * vocab);
        request.tokens.push_back(static_cast<int32_t>(
            std::max_element(begin, begin + static_cast<std::ptrdiff_t>(vocab)) - begin));
      }
      request.golden = std::move(golden);
      requests.push_back(std::move(request));
    }
  }
  return requests;
}

// Request i starts with call i * stagger; `chunk` tokens of a prompt a call, a generated one.
Schedule together(const std::vector<Request>& requests, int64_t chunk, size_t stagger) {
  std::vector<int64_t> done(requests.size());
  Schedule schedule;
  for (bool left = true; left;) {
    left = false;
    std::vector<Part> call;
    for (size_t i = 0; i < requests.size(); ++i) {
      if (done[i] == requests[i].size()) continue;
      left = true;
      if (schedule.size() < i * stagger) continue;
      const int64_t in_prompt = requests[i].prompt.size() - done[i];
      const int64_t count = in_prompt > 0 ? std::min(chunk, in_prompt) : 1;
      call.push_back({i, count});
      done[i] += count;
    }
    if (schedule.size() % 2) std::reverse(call.begin(), call.end());
    if (left) schedule.push_back(std::move(call));
  }
  return schedule;
}

Schedule alone(const std::vector<Request>& requests) {
  Schedule schedule;
  for (size_t i = 0; i < requests.size(); ++i) {
    schedule.push_back({{i, requests[i].prompt.size()}});
    for (int64_t t = requests[i].prompt.size(); t < requests[i].size(); ++t)
      schedule.push_back({{i, 1}});
  }
  return schedule;
}

// Embeddings [end - begin, d] of a request's tokens, picture rows in place.
Tensor embed(Model& model, const Request& request, int64_t begin, int64_t end) {
  const Tensor x =
      model.embed(std::span(request.tokens)
                      .subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
  const auto& is_image = request.prompt.is_image;
  std::vector<int32_t> at;
  int64_t before = 0;
  for (int64_t i = 0; i < std::min(end, static_cast<int64_t>(is_image.size())); ++i) {
    if (!is_image[static_cast<size_t>(i)]) continue;
    if (i < begin)
      ++before;
    else
      at.push_back(static_cast<int32_t>(i - begin));
  }
  if (at.empty()) return x;
  const Tensor rows = model.backend().slice(request.prompt.image_rows, 0, before,
                                            before + static_cast<int64_t>(at.size()));
  return model.backend().replace_rows(x, at, rows);
}

// Logits of every token of every request, [tokens, vocab] each.
std::vector<std::vector<float>> run(Model& model, const std::vector<Request>& requests,
                                    const Schedule& schedule) {
  Backend& be = model.backend();
  const Plan prefill = model.prefill_plan(), decode = model.decode_plan();
  std::vector<Sequence> sequences(requests.size());
  std::vector<std::vector<float>> results(requests.size());
  for (const std::vector<Part>& call : schedule) {
    std::vector<Part> by_plan[2];  // a TroL prompt and a decode step can't share a call
    for (const Part& part : call) {
      const bool in_prompt = sequences[part.request].length < requests[part.request].prompt.size();
      by_plan[in_prompt || prefill == decode ? 0 : 1].push_back(part);
    }
    for (int plan = 0; plan < 2; ++plan) {
      if (by_plan[plan].empty()) continue;
      Rows rows;
      std::vector<Tensor> parts;
      for (const Part& part : by_plan[plan]) {
        const Request& request = requests[part.request];
        Sequence& sequence = sequences[part.request];
        const int64_t begin = sequence.length, end = begin + part.count;
        parts.push_back(embed(model, request, begin, end));
        for (int64_t i = begin; i < end; ++i) {
          const auto& is_image = request.prompt.is_image;
          const bool inside = i < static_cast<int64_t>(is_image.size());
          rows.is_image.push_back(inside ? is_image[static_cast<size_t>(i)] : 0);
        }
        rows.append(sequence, part.count, std::max(request.prompt.size(), end));
      }
      const Tensor x = be.concat(parts, 0);
      const Tensor state = model.forward(plan == 0 ? prefill : decode, rows, x);
      const std::vector<float> logits = be.to_host(model.logits(model.final_norm(state)));
      const auto vocab = static_cast<int64_t>(logits.size()) / rows.size();
      auto from = logits.begin();
      for (const Part& part : by_plan[plan]) {
        auto& out = results[part.request];
        out.insert(out.end(), from, from + part.count * vocab);
        from += part.count * vocab;
        Sequence& sequence = sequences[part.request];
        if (sequence.length == requests[part.request].prompt.size()) sequence.end_prompt(prefill);
      }
    }
  }
  return results;
}

void expect_golden(const Request& request, const std::vector<float>& logits) {
  const int64_t vocab = static_cast<int64_t>(logits.size()) / request.size();
  const int64_t n = request.prompt.size(), steps = request.size() - n + 1;
  const std::span<const float> all(logits);
  const std::vector<TensorView> traced = {
      make_view("logits", {n, vocab}, all.first(static_cast<size_t>(n * vocab))),
      make_view("decode.logits", {steps, vocab},
                all.subspan(static_cast<size_t>((n - 1) * vocab)))};
  for (const std::string& problem : compare(request.golden, traced, {}, nullptr))
    ADD_FAILURE() << request.golden.name << ": " << problem;
}

struct Param {
  std::string model;
  Machine machine;
};
class Interleaved : public testing::TestWithParam<Param> {};

TEST_P(Interleaved, EveryCaseBesideAllOthers) {
  const auto& [name, machine] = GetParam();
  const std::filesystem::path folder = golden_root() / name;
  const auto loaded = load_model(folder / "model", machine);
  const std::vector<Request> requests = make_requests(*loaded, folder);
  ASSERT_FALSE(requests.empty());
  const auto expected = run(loaded->model(), requests, alone(requests));
  for (const auto& [chunk, stagger] :
       {std::pair<int64_t, size_t>{1000, 0}, {1000, 1}, {7, 2}, {1, 3}}) {
    SCOPED_TRACE(fmt::format("chunks of {}, one more every {} calls", chunk, stagger));
    const auto found = run(loaded->model(), requests, together(requests, chunk, stagger));
    for (size_t i = 0; i < requests.size(); ++i) {
      expect_golden(requests[i], found[i]);
      if (machine.backend != "cpu") continue;
      ASSERT_EQ(found[i].size(), expected[i].size());
      EXPECT_EQ(std::memcmp(found[i].data(), expected[i].data(), found[i].size() * sizeof(float)),
                0)
          << requests[i].golden.name << " has other bits than alone";
    }
  }
}

std::vector<Param> all() {
  std::vector<Param> params;
  for (const char* model : kModels)
    for (const Machine& machine : machines()) params.push_back({model, machine});
  return params;
}

INSTANTIATE_TEST_SUITE_P(All, Interleaved, testing::ValuesIn(all()), [](const auto& info) {
  std::string name = info.param.model + "_" + info.param.machine.name();
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace reprise::test
