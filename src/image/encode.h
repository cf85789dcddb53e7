// 8-bit RGB pictures to files, for pages that show what a model saw. Not for archives: no metadata
// is written, so none of the source's (place, camera) gets out.
#pragma once

#include <string>

#include "image/image.h"

namespace reprise {

// The file's bytes. Throws Error when the picture is empty, or too large for the format.
std::string encode_png(const Image& image);                // lossless
std::string encode_jpeg(const Image& image, int quality);  // quality 1 to 100

}  // namespace reprise
