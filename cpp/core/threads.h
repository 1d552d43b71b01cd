// How many CPUs this process may use, and how a native worker thread claims them.
#pragma once

namespace s2ft {

/// CPUs in the process's affinity mask, lowered to its cgroup's CPU quota (rounded up).
/// At least 1.
int available_cpus();

/// Call once at the start of a native thread that owns a model. OpenMP regions opened by
/// this thread then use `threads` threads. When that is every CPU of the process, each of
/// them, the caller included, is pinned to a CPU of its own: some kernels otherwise pack
/// two busy threads on one CPU. A thread started from a pinned one inherits its single
/// CPU, so start helpers elsewhere. Other threads of the process are not touched; off
/// Linux nothing is pinned. Never call it on a thread that is not yours (JavaScript's).
void enter_worker_thread(int threads);

}  // namespace s2ft
