// SHA-256 of pixels as golden files have it.
#pragma once

#include <span>
#include <string>

#include "base/sha256.h"

namespace reprise::testing {

// A container or span of plain values.
template <class Values>
std::string hex_sha256(const Values& values) {
  return to_hex(sha256(std::as_bytes(std::span(values))));
}

}  // namespace reprise::testing
