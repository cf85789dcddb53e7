#include "convert/file_backend.h"

#include "base/error.h"

namespace reprise {

void FileBackend::none() {
  throw InternalError("a model that was opened for its files only can't compute");
}

}  // namespace reprise
