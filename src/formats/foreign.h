// Models in forms that this program doesn't read: what each is, and what to do about it. Nothing is
// guessed: what isn't recognised is left to the readers' own errors.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "base/json_fwd.h"

namespace reprise {

// What the folder holds in place of a model's safetensors files, or beside them where that would
// change what they compute (an adapter). Empty where nothing is recognised.
std::string foreign_folder(const std::filesystem::path& folder);

// What "quantization_config" or "quantization" of a config.json says of its weights; empty where they
// may be ordinary ones. `whole_numbers`: whether some of the weights are, which decides where
// they may also be quantized as they are loaded.
std::string foreign_quantization(const Json& config, bool whole_numbers);

// What git leaves of a large file that it has not fetched.
bool is_lfs_pointer(std::span<const std::byte> bytes);
inline constexpr const char* kLfsPointer =
    "is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'";

// What a single file is that isn't GGUF, by its first bytes and its name.
std::string foreign_file(const std::filesystem::path& path, std::span<const std::byte> bytes);

}  // namespace reprise
