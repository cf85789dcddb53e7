// A set of named tensors from one source (a GGUF file, a .pt file, one or many safetensors files):
// all that a model loader needs to know about where weights come from.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "formats/tensor_view.h"

namespace reprise {

class WeightFile {
 public:
  WeightFile() = default;
  // `where` is the file or folder, for messages. Throws Error when a name comes twice.
  WeightFile(std::string where, std::vector<TensorView> tensors);

  // nullptr when there is no such tensor.
  const TensorView* find(std::string_view name) const;
  // Throws Error naming the source and the tensor.
  const TensorView& get(std::string_view name) const;
  // In file order.
  const std::vector<TensorView>& tensors() const& { return tensors_; }
  std::vector<TensorView> tensors() && { return std::move(tensors_); }  // safe on a temporary
  const std::string& where() const { return where_; }

 private:
  std::string where_;
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace reprise
