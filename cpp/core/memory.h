// What the process holds.
#pragma once

#include <cstddef>

namespace s2ft {

/// Resident bytes of this process; 0 where the system does not tell.
size_t resident_bytes();

}  // namespace s2ft
