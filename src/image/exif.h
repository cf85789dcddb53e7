// The one EXIF field that changes how a picture is seen: its orientation.
#pragma once

#include <cstddef>
#include <span>

#include "image/image.h"

namespace reprise {

// Orientation (1..8) from a TIFF structure as found in a JPEG APP1 segment after "Exif\0\0" or in a
// PNG eXIf chunk: tag 0x0112 of the first directory (TIFF 6.0, section 2). 1 when there is no such
// tag or the structure is damaged; every offset is checked.
int exif_orientation(std::span<const std::byte> tiff);

// The picture turned upright: what a viewer shows for this orientation. 1 returns it unchanged.
Image apply_orientation(Image image, int orientation);

}  // namespace reprise
