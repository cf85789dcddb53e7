#include "formats/weights.h"

#include "base/error.h"

namespace reprise {

WeightFile::WeightFile(std::string where, std::vector<TensorView> tensors)
    : where_(std::move(where)), tensors_(std::move(tensors)) {
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (!index_.emplace(tensors_[i].name, i).second)
      fail("{}: tensor '{}' is there twice", where_, tensors_[i].name);
}

const TensorView* WeightFile::find(std::string_view name) const {
  const auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const TensorView& WeightFile::get(std::string_view name) const {
  const TensorView* tensor = find(name);
  if (!tensor) fail("{}: tensor '{}' is missing", where_, name);
  return *tensor;
}

}  // namespace reprise
