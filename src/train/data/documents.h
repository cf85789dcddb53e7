// The documents of a text or JSON Lines file, one after the other.
#pragma once

#include <functional>
#include <string_view>

#include "train/recipe/recipe.h"

namespace reprise {

// Calls `each` with every document that isn't empty until it says false. where: "file:line", for
// messages. Throws Error naming file, line and key where a line isn't JSON with that text.
void for_each_document(
    const TextSource& source,
    const std::function<bool(std::string_view document, const std::string& where)>& each);

}  // namespace reprise
