// Follows every access of kernels to memory, in builds that call the hooks of
// -fsanitize=thread (watch.cpp). The emulation tells it what orders accesses.
#pragma once

#include <cstddef>

namespace s2ft::cuda::emulation {

/// A launch begins: accesses of other launches are over.
void watch_launch();
/// A block of so many threads begins, with its dynamic and static shared memory poisoned.
void watch_block(unsigned number, unsigned threads, void* dynamic_begin,
                 size_t dynamic_bytes, void* static_begin, size_t static_bytes);
/// All threads of the block have waited for each other.
void watch_barrier();
/// The lanes of `mask` in the warp whose first thread is `base` have, in __syncwarp.
void watch_meeting(unsigned base, unsigned mask);
/// The running thread reads or writes on behalf of an instruction that the hooks do not
/// see; `code` is where.
void watch_read(const void* at, size_t bytes, const void* code);
void watch_write(void* at, size_t bytes, const void* code);

}  // namespace s2ft::cuda::emulation
