// Loads the torch backend, a shared library of its own so that the program neither needs libtorch
// nor pays for loading it where it isn't used.
#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

#include "backend/factory.h"
#include "backend/train_backend.h"
#include "base/error.h"

namespace reprise {
namespace {

constexpr const char* kPluginName = "libreprise_torch.so";
constexpr const char* kHowToGetIt =
    "run `make` where a .venv holds torch==2.13.0 (see README), or set REPRISE_PLUGIN_DIR to the "
    "folder that holds it";

// REPRISE_PLUGIN_DIR, else the folder of the running program.
std::filesystem::path plugin_folder() {
  if (const char* folder = std::getenv("REPRISE_PLUGIN_DIR"); folder && *folder) return folder;
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

}  // namespace

std::optional<std::filesystem::path> torch_plugin_path() {
  const std::filesystem::path path = plugin_folder() / kPluginName;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  return path;
}

std::unique_ptr<TrainBackend> make_torch_backend(const BackendOptions& options) {
  const auto path = torch_plugin_path();
  if (!path)
    fail("this build has no torch backend ({} not found): {}",
         (plugin_folder() / kPluginName).string(), kHowToGetIt);
  static std::mutex mutex;  // dlerror's text belongs to the call before it
  std::lock_guard lock(mutex);
  // Threads of libtorch's pool that wait for work would spin, for as long as the others of a parallel
  // loop aren't there: with another program on the same cores a step then takes several times as long.
  // OpenMP reads this once, when it is loaded with the plug-in.
  ::setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
  // Never closed: libtorch doesn't survive it.
  void* library = ::dlopen(path->c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    fail("{}: the torch backend can't be loaded: {}; {}", path->string(), ::dlerror(), kHowToGetIt);
  using Create = TrainBackend*(const BackendOptions*);
  auto* create = reinterpret_cast<Create*>(::dlsym(library, "reprise_create_torch_backend"));
  if (!create)
    fail("{}: not a torch backend of reprise: {}; {}", path->string(), ::dlerror(), kHowToGetIt);
  return std::unique_ptr<TrainBackend>(create(&options));
}

}  // namespace reprise
