#include "formats/foreign.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/file.h"
#include "base/json.h"

namespace reprise {
namespace fs = std::filesystem;
namespace {

constexpr const char* kOriginal =
    "take the Hugging Face folder that it was made from, or a GGUF file of it";

bool has(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::count(names, name) > 0;
}

// The first name with this beginning and this end; "" where there is none.
std::string find(const std::vector<std::string>& names, std::string_view begin,
                 std::string_view end) {
  for (const std::string& name : names)
    if (name.starts_with(begin) && name.ends_with(end)) return name;
  return "";
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

// A key of a JSON file, where it is a string; "" for anything else.
std::string string_in(const fs::path& file, const char* key) {
  try {
    const Json json = load_json(file);
    if (json.is_object() && json.contains(key) && json[key].is_string()) return json[key];
  } catch (const Error&) {  // its reader would say what is wrong with it
  }
  return "";
}

std::string adapter(const fs::path& folder) {
  const fs::path file = folder / "adapter_config.json";
  const std::string base = string_in(file, "base_model_name_or_path");
  const std::string kind = string_in(file, "peft_type");
  return fmt::format(
      "is a PEFT adapter{}{}, not a whole model; merge it into its model first: peft's "
      "PeftModel.from_pretrained(model, '{}').merge_and_unload().save_pretrained(FOLDER)",
      kind.empty() ? "" : fmt::format(" ({})", kind), base.empty() ? "" : " of " + base,
      folder.string());
}

std::string weights_instead(const fs::path& folder, const std::vector<std::string>& names) {
  if (const std::string name = find(names, "pytorch_model", ".bin");
      !name.empty() || has(names, "pytorch_model.bin.index.json"))
    return fmt::format(
        "holds its weights as PyTorch pickles ({}), which are programs that this one doesn't run; "
        "convert it with transformers' AutoModelForCausalLM.from_pretrained('{}')"
        ".save_pretrained(FOLDER, safe_serialization=True)",
        name.empty() ? "pytorch_model.bin.index.json" : name, folder.string());
  for (const char* end : {".pth", ".safetensors"})
    if (const std::string name = find(names, "consolidated", end); !name.empty())
      return fmt::format(
          "holds the weights as their maker has them ({}), under other names and without a "
          "config.json of Hugging Face's; take the release's Hugging Face folder, or convert it "
          "with transformers' convert_llama_weights_to_hf.py or convert_mistral_weights_to_hf.py",
          name);
  std::error_code ignored;
  const bool onnx_folder = fs::is_directory(folder / "onnx", ignored);
  if (const std::string name = find(names, "", ".onnx"); !name.empty() || onnx_folder)
    return fmt::format("is a model for ONNX Runtime ({}): a graph with its weights inside; {}",
                       name.empty() ? "folder onnx" : name, kOriginal);
  if (const std::string name = find(names, "openvino", ".xml"); !name.empty())
    return fmt::format("is a model for OpenVINO ({}): a graph with its weights beside it; {}", name,
                       kOriginal);
  if (has(names, "weights.npz"))
    return fmt::format("is a model of MLX (weights.npz); {}", kOriginal);
  if (has(names, "adapters.safetensors"))
    return "is an adapter of MLX (adapters.safetensors); merge it into its model first: "
           "mlx_lm.fuse --de-quantize";
  for (const auto& [name, program, flag] :
       {std::tuple{"tf_model.h5", "TensorFlow", "from_tf=True"},
        std::tuple{"flax_model.msgpack", "Flax", "from_flax=True"}})
    if (has(names, name))
      return fmt::format(
          "holds its weights for {} ({}); convert it with transformers 4's "
          "AutoModelForCausalLM.from_pretrained('{}', {}).save_pretrained(FOLDER)",
          program, name, folder.string(), flag);
  if (const std::string name = find(names, "", ".mlpackage"); !name.empty())
    return fmt::format("is a model for Core ML ({}); {}", name, kOriginal);
  if (const std::string name = find(names, "", ".gguf"); !name.empty())
    return fmt::format("holds GGUF files and no weights of a folder; give the file: {}",
                       (folder / name).string());
  if (has(names, "snapshots") && has(names, "refs"))
    return fmt::format("is a place where Hugging Face keeps downloads; the model is {}",
                       (folder / "snapshots" / "...").string());
  if (const std::string name = find(names, "", ".safetensors"); !name.empty())
    return fmt::format(
        "holds {}, but neither model.safetensors nor model.safetensors.index.json, which says "
        "where each tensor is",
        name);
  return "";
}

constexpr const char* kUnquantized =
    "take the release's folder that isn't quantized, or a GGUF file of it";

std::string quantized(const std::string& method, const std::string& bits, const std::string& key) {
  return fmt::format(
      "{}the weights are quantized by {}{}, in a form that this program doesn't read; ",
      key.empty() ? "" : "key '" + key + "': ", method,
      bits.empty() ? "" : " in " + bits + " bits");
}

}  // namespace

std::string foreign_folder(const fs::path& folder) {
  const std::vector<std::string> names = names_in(folder);
  const bool weights =
      has(names, "model.safetensors") || has(names, "model.safetensors.index.json");
  if (has(names, "adapter_config.json") &&
      (!weights || has(names, "adapter_model.safetensors") || has(names, "adapter_model.bin"))) {
    if (!weights) return adapter(folder);
    return "holds a model and a PEFT adapter that others would lay over it (adapter_config.json); "
           "expected one of them: merge the adapter, or leave its two files out";
  }
  for (const auto& [file, method] :
       {std::pair{"quantize_config.json", "GPTQ"}, std::pair{"quant_config.json", "AWQ"}})
    if (has(names, file))
      return fmt::format("{}: {}", file, quantized(method, "", "")) + kUnquantized;
  return weights ? "" : weights_instead(folder, names);
}

std::string foreign_quantization(const Json& config, bool whole_numbers) {
  const auto text = [](const Json& object, const char* key) {
    if (!object.contains(key) || object[key].is_null()) return std::string();
    return object[key].is_string() ? object[key].get<std::string>() : object[key].dump();
  };
  if (!config.is_object()) return "";
  // MLX writes the same object twice, without a method.
  if (const auto mlx = config.find("quantization");
      mlx != config.end() && mlx->is_object() && mlx->contains("group_size"))
    return quantized("MLX", text(*mlx, "bits"), "quantization") +
           "dequantize it: mlx_lm.convert --hf-path FOLDER --dequantize";
  const auto found = config.find("quantization_config");
  if (found == config.end() || !found->is_object() || found->empty()) return "";
  std::string method = text(*found, "quant_method");
  const bool bits_and_bytes = method == "bitsandbytes" || found->contains("load_in_4bit") ||
                              found->contains("load_in_8bit");
  if (bits_and_bytes) {
    // Also what a model was once loaded with, whose weights were stored as they are.
    if (!whole_numbers) return "";
    return quantized("bitsandbytes", "", "quantization_config") +
           "write it anew with transformers: AutoModelForCausalLM.from_pretrained(FOLDER)"
           ".dequantize().save_pretrained(NEW)";
  }
  for (const auto& [name, known] :
       {std::pair{"gptq", "GPTQ"}, std::pair{"awq", "AWQ"}, std::pair{"exl2", "EXL2"}})
    if (method == name) method = known;
  if (method.empty()) method = "an unknown method";
  return quantized(method, text(*found, "bits"), "quantization_config") + kUnquantized;
}

bool is_lfs_pointer(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return text.starts_with("version https://git-lfs");
}

std::string foreign_file(const fs::path& path, std::span<const std::byte> bytes) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()),
                              std::min<size_t>(bytes.size(), 64));
  const std::string name = path.filename().string();
  // The magic numbers of before GGUF, little-endian.
  for (const auto& [magic, kind] :
       {std::pair{"lmgg", "ggml"}, std::pair{"fmgg", "ggmf"}, std::pair{"tjgg", "ggjt"}})
    if (head.starts_with(magic))
      return fmt::format(
          "is a file of llama.cpp from before GGUF ({}); turn it into one with "
          "llama.cpp's convert_llama_ggml_to_gguf.py, or take a GGUF file",
          kind);
  if (head.starts_with("algg"))
    return "is a LoRA adapter of llama.cpp from before GGUF (ggla), not a model";
  if (is_lfs_pointer(bytes)) return kLfsPointer;
  if (name.ends_with(".safetensors"))
    return "is one safetensors file; give the folder that it lies in, with its config.json";
  if (name.ends_with(".onnx")) return fmt::format("is a model for ONNX Runtime; {}", kOriginal);
  if (name.ends_with(".npz"))
    return fmt::format("is an archive of NumPy (MLX's weights); {}", kOriginal);
  const bool pickle = name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
  if (pickle || head.starts_with(std::string_view("PK\3\4", 4)))
    return "is a PyTorch pickle or another archive; give a Hugging Face folder with safetensors "
           "files (transformers' save_pretrained(FOLDER, safe_serialization=True)) or a GGUF file";
  if (name == "config.json" || name.ends_with(".json"))
    return "is a file of a folder; give the folder";
  return "";
}

}  // namespace reprise
