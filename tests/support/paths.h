// Where tests find what they need. The only source file that knows absolute paths is paths.cc, so
// that everything else compiles to the same object in every checkout (ccache).
#pragma once

#include <filesystem>

namespace reprise::test {

std::filesystem::path source_dir();  // the repository's root
std::filesystem::path data_dir();    // tests/data
const char* program();               // the built `reprise`; the torch plug-in lies beside it

}  // namespace reprise::test
