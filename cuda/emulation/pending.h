// A thread's copies to shared memory that cp.async has started and not yet waited for.
#pragma once

#include <vector>

namespace s2ft::cuda::emulation {

struct PendingCopy {
  void* to;
  const void* from;
  unsigned read;  // of 16 bytes; the rest is zeros
  int group;
  const void* code;
};

struct PendingCopies {
  std::vector<PendingCopy> list;
  int group = 0;  // the one that is being filled
};

/// Those of the running thread.
PendingCopies& pending_copies();

}  // namespace s2ft::cuda::emulation
