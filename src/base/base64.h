// Base64 (RFC 4648, section 4), with padding.
#pragma once

#include <string>
#include <string_view>

namespace reprise {

std::string base64(std::string_view bytes);
// The way back. Strict: nothing but digits, in groups of four, with padding and no bits left over;
// no white space. Throws Error that begins with `where` and says what is wrong at which place.
std::string decode_base64(std::string_view text, std::string_view where);

}  // namespace reprise
