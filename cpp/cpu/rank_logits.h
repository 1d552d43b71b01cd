// Backend::rank_logits on the host.
#pragma once

#include "backend/backend.h"

namespace s2ft {

void rank_logits(const Ranking& to, Mat logits, const LogitChange* changes, int64_t count,
                 const float* temperatures);

}  // namespace s2ft
