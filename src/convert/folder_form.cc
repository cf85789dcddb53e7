#include "convert/folder_form.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "convert/file_backend.h"
#include "model/config/folder_config.h"
#include "model/fused_qkv.h"
#include "text/tokenizer/tokenizer_export.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {
namespace {

// Rows as a folder has them, where each head's components lie as pairs (2i, 2i + 1): first all 2i,
// then all 2i + 1.
std::vector<int64_t> halves_of_heads(int64_t rows, int64_t head_dim) {
  std::vector<int64_t> order;
  for (int64_t head = 0; head < rows; head += head_dim)
    for (int64_t side = 0; side < 2; ++side)
      for (int64_t i = side; i < head_dim; i += 2) order.push_back(head + i);
  return order;
}

// The same of a fused matrix whose parts lie behind each other and in the folder by head.
std::vector<int64_t> grouped_rows(const TextConfig& folder) {
  std::vector<int64_t> order(static_cast<size_t>((folder.heads + 2 * folder.kv_heads)) *
                             static_cast<size_t>(folder.head_dim));
  int64_t next = 0;
  for (const char* key : {"q", "k", "v"})
    for (const int64_t row : fused_qkv_rows(folder, key)) order[static_cast<size_t>(row)] = next++;
  return order;
}

TensorEdit edit_of(const TensorSlot& from, const TensorSlot& to, const TextConfig& text,
                   const TextConfig& folder) {
  TensorEdit edit;
  edit.add = from.offset - to.offset;
  const bool rows = to.role != Role::Norm && !to.shape.empty();
  if (rows && (to.key == "q" || to.key == "k") && text.ropes.front().interleaved)
    edit.rows = halves_of_heads(to.shape[0], text.head_dim);
  if (rows && to.key == "qkv" && folder.grouped_qkv && !text.grouped_qkv)
    edit.rows = grouped_rows(folder);
  return edit;
}

std::vector<TensorSlot> slots_of(Model& model) {
  std::vector<TensorSlot> slots;
  model.visit_tensors([&](TensorSlot slot) {
    slot.tensor = nullptr;
    slots.push_back(std::move(slot));
  });
  return slots;
}

// Whether the folder's own code gives every layer the window and the rope that the file's has.
void check_kinds_of_layers(const TextConfig& file, const TextConfig& folder,
                           const std::string& path) {
  for (size_t i = 0; i < file.blocks.size(); ++i) {
    const BlockConfig &from = file.blocks[i], &to = folder.blocks[i];
    if (from.window != to.window)
      fail(
          "{}: can't be a folder: layer {} has a window of {} keys (0: none), where the code of {} "
          "gives it one of {}",
          path, i, from.window, folder.architecture, to.window);
    if ((from.rope == kNoRope) != (to.rope == kNoRope))
      fail("{}: can't be a folder: layer {} has {} rope, unlike in the code of {}", path, i,
           from.rope == kNoRope ? "no" : "a", folder.architecture);
  }
}

}  // namespace

ConversionSource folder_form(const ConversionSource& source, std::vector<std::string>& notes) {
  const GgufFile& file = *source.model.gguf();
  const FolderConfig written = folder_config(file);
  ConversionSource folder = source;
  folder.config_text = written.config->dump(2) + "\n";
  folder.files["generation_config.json"] = written.generation->dump(2) + "\n";
  folder.config = config_from_json(written.config, file.metadata.where() + " as a folder");
  folder.slots.clear();
  const TextConfig &text = source.config->text, &own = folder.config->text;
  for (size_t i = 0; i < text.blocks.size(); ++i)
    if (text.blocks[i].window != own.blocks[i].window)
      fail("{}: layer {}: a window of {} keys can't be said in a folder of {}, which means {}",
           source.path(), i, text.blocks[i].window, own.architecture, own.blocks[i].window);
  check_kinds_of_layers(text, own, source.path());

  // Both tell their tensors in the same order: they are the same model.
  FileBackend backend;
  const auto model = Model::load(source.model, backend);
  const std::vector<TensorSlot> from = slots_of(*model);
  const std::vector<TensorSlot> to = slots_of(*Model::describe(*folder.config, backend));
  REPRISE_CHECK(from.size() == to.size(), "{} tensors, {} of a folder", from.size(), to.size());
  std::vector<TensorView> tensors;
  for (size_t i = 0; i < to.size(); ++i) {
    REPRISE_CHECK(from[i].shape == to[i].shape && from[i].key == to[i].key, "{} is not {}",
                  from[i].name, to[i].name);
    TensorView tensor = source.weights.get(from[i].name);
    tensor.name = to[i].name;
    tensors.push_back(std::move(tensor));
    if (TensorEdit edit = edit_of(from[i], to[i], text, own); edit.add != 0 || !edit.rows.empty())
      folder.edits.emplace(to[i].name, std::move(edit));
    folder.slots.emplace(to[i].name, to[i]);
  }
  folder.weights = WeightFile(source.path(), std::move(tensors));

  if (has_tokenizer(source.model)) {
    const std::string type = (*written.config)["model_type"];
    for (auto& [name, bytes] : export_tokenizer(file.metadata, type))
      folder.files[name] = std::move(bytes);
  }
  if (!written.in_transformers)
    notes.push_back(
        fmt::format("transformers has no code of its own for {}; this program reads the folder",
                    (*written.config)["architectures"][0].dump()));
  return folder;
}

TensorView edited(const TensorView& tensor, const TensorEdit& edit) {
  if (edit.add != 0) {
    std::vector<float> values = to_floats(tensor);
    for (float& value : values) value += edit.add;
    return make_view(tensor.name, tensor.shape, values);
  }
  if (edit.rows.empty()) return tensor;
  // Rows are whole blocks of any type.
  REPRISE_CHECK(std::ssize(edit.rows) == tensor.shape[0], "{}", tensor.name);
  const size_t bytes = tensor.data.size() / edit.rows.size();
  std::vector<std::byte> data(tensor.data.size());
  for (size_t i = 0; i < edit.rows.size(); ++i)
    std::memcpy(data.data() + i * bytes,
                tensor.data.data() + static_cast<size_t>(edit.rows[i]) * bytes, bytes);
  if (tensor.file) tensor.file->release(tensor.data);
  return make_view(tensor.name, tensor.type, tensor.shape, std::move(data));
}

}  // namespace reprise
