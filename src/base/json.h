// JSON with errors that name the file and the key. Wraps nlohmann::json, which takes more than a
// second to compile: headers include base/json_fwd.h, sources that only read keys json_object.h.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/json_fwd.h"
#include "base/json_object.h"

namespace reprise {

// Parses text; `where` (a file name, "--inputs", ...) begins the error message. Depth is limited to
// 100 levels, so hostile nesting can't overflow the stack.
Json parse_json(const std::string& text, const std::string& where);
Json load_json(const std::filesystem::path& path, size_t max_bytes = size_t{256} << 20);

}  // namespace reprise
