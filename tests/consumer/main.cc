// Uses a header and a function of the tree, without any option of its own.
#include <cstdio>

#include "base/json.h"

int main() {
  const reprise::Json json = reprise::parse_json("{\"layers\": 2}", "here");
  const int64_t layers = reprise::JsonObject(json, "here").get_int("layers");
  std::printf("layers: %d\n", static_cast<int>(layers));
  return layers == 2 ? 0 : 1;
}
