// Folders that are there as a whole or not at all.
#pragma once

#include <filesystem>
#include <functional>

namespace reprise {

// Calls `write` with a new empty folder beside `path`, and renames that folder to `path` when it
// returns: the files written to it should be flushed (write_file_atomically does). When `write`
// throws, the new folder and all in it are removed; what a killed program leaves of it
// ("<path>.partial-<process>-<number>", partial.h) is removed by the next call for `path`. What
// `path` names already: nothing or an empty folder is taken; with `replace`, a file or folder too:
// they change places in one step and the old one is removed afterwards. Throws Error naming path
// otherwise.
void write_folder_atomically(const std::filesystem::path& path, bool replace,
                             const std::function<void(const std::filesystem::path&)>& write);

}  // namespace reprise
