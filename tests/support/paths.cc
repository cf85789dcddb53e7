#include "support/paths.h"

namespace reprise::test {

std::filesystem::path source_dir() { return REPRISE_SOURCE_DIR; }
std::filesystem::path data_dir() { return source_dir() / "tests/data"; }
const char* program() { return REPRISE_PROGRAM; }

}  // namespace reprise::test
