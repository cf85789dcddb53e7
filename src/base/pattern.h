// Name patterns of options and recipes.
#pragma once

#include <string>

namespace reprise {

// '*' matches any run of characters; the whole name must match.
bool matches_pattern(const std::string& pattern, const std::string& name);

}  // namespace reprise
