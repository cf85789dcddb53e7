// A backend for tools that read and check a model's files and never run the model: it keeps none of
// the weights it is given, so that loading a model costs no memory. Computing with it is a bug.
#pragma once

#include "backend/backend.h"

namespace reprise {

class FileBackend final : public Backend {
 public:
  std::string name() const override { return "files"; }
  std::string description() const override { return "files only"; }
  BackendStats stats() const override { return {}; }
  Tensor bind(const HostTensor&, WeightUse) override { return {}; }

  Tensor from_host(std::span<const float>, Shape) override { none(); }
  std::vector<float> to_host(const Tensor&) override { none(); }
  std::shared_ptr<KvPage> new_page(const KvSpec&) override { none(); }
  void copy_entries(const KvPage&, int64_t, KvPage&, int64_t, int64_t) override { none(); }
  void append_kv(const Tensor&, const Tensor&, std::span<const AttentionSegment>) override {
    none();
  }
  std::pair<Tensor, Tensor> read_kv(const KvRow&, int64_t, int64_t) override { none(); }
  Tensor reshape(const Tensor&, Shape) override { none(); }
  Tensor slice(const Tensor&, int, int64_t, int64_t) override { none(); }
  Tensor concat(std::span<const Tensor>, int) override { none(); }
  Tensor gather_rows(const Tensor&, std::span<const int32_t>) override { none(); }
  Tensor replace_rows(const Tensor&, std::span<const int32_t>, const Tensor&) override { none(); }
  Tensor embed(const Tensor&, std::span<const int32_t>) override { none(); }
  using Backend::linear;
  std::vector<Tensor> linear(const Tensor&, std::span<const LinearWeight* const>,
                             std::span<const int32_t>) override {
    none();
  }
  Tensor norm(const Tensor&, const NormWeight&) override { none(); }
  Tensor add(const Tensor&, const Tensor&, float) override { none(); }
  Tensor mul(const Tensor&, const Tensor&) override { none(); }
  Tensor scale(const Tensor&, float) override { none(); }
  Tensor lerp(const Tensor&, const Tensor&, const Tensor&) override { none(); }
  Tensor unary(const Tensor&, Unary) override { none(); }
  Tensor glu(const Tensor&, const Tensor&, Unary) override { none(); }
  Tensor rope(const Tensor&, const Tensor&, bool) override { none(); }
  Tensor attention(const AttentionSpec&, const Tensor&, const Tensor&, const Tensor&,
                   std::span<const AttentionSegment>) override {
    none();
  }
  Tensor full_attention(const Tensor&, const Tensor&, const Tensor&, float,
                        std::span<const int32_t>) override {
    none();
  }
  Tensor patchify(const Tensor&, int) override { none(); }

 private:
  [[noreturn]] static void none();
};

}  // namespace reprise
