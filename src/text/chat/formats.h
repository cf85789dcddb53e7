// The table of chat formats: data, a row a format. Those of the official releases of schemes are
// named after them; which model has which is not known here (model/scheme_type.h).
#pragma once

#include <vector>

#include "text/chat/chat.h"

namespace reprise {

const std::vector<ChatFormat>& chat_formats();

}  // namespace reprise
