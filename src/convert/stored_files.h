// The small files of a model folder (tokenizer, generation_config.json, remote code, licence), as
// bytes by name: how they go into a GGUF file and come out of it, byte for byte.
//
// In GGUF each is the value of "reprise.files.<name>": a string, or an array of u8 where it isn't
// text. (text/tokenizer/tokenizer_files.h reads the tokenizer's among them.)
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "formats/gguf.h"

namespace reprise {

using StoredFiles = std::map<std::string, std::string>;  // name -> bytes

// All small files of a folder but config.json and those that hold weights. Hidden files,
// sub-folders, weights in other formats and files above 256 MB are left out; their names go to
// `left_out`, but for those in `rebuilt`, which are written anew from the tensors (a scheme's own
// files). Throws Error naming a file that can't be read.
StoredFiles read_small_files(const std::filesystem::path& folder,
                             const std::vector<std::string>& rebuilt,
                             std::vector<std::string>& left_out);

void store_files(const StoredFiles& files, GgufMetadata& metadata);
// Throws Error naming the key where a value is no file, or its name would leave the folder or
// replace a file that the folder has anyway (config.json, weights).
StoredFiles load_stored_files(const GgufMetadata& metadata);

}  // namespace reprise
