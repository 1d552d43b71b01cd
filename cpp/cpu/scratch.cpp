// Host memory for the CPU backend: aligned blocks, huge pages, and the scratch pool.
#include "cpu/scratch.h"

#include <cstdlib>
#include <string>

#include "core/error.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace s2ft {
namespace {

[[noreturn]] void out_of_memory(size_t bytes) {
  throw Error("OUT_OF_MEMORY", "the CPU backend could not allocate " +
                                   std::to_string(bytes) + " bytes of memory");
}

void release_heap(void* data, size_t) {
  std::free(data);
}

#ifdef __linux__
constexpr size_t kHugePage = size_t(2) << 20;

size_t mapped_size(size_t bytes) {
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

void release_map(void* data, size_t bytes) {
  munmap(data, mapped_size(bytes));
}

// Maps one huge page more than needed and returns the part before and after the aligned
// block, so that huge pages can cover all of it.
void* map_aligned(size_t bytes) {
  const size_t wanted = mapped_size(bytes), total = wanted + kHugePage;
  void* map =
      mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(map);
  const size_t skip =
      (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (skip) munmap(begin, skip);
  if (skip != kHugePage) munmap(begin + skip + wanted, kHugePage - skip);
  madvise(begin + skip, wanted, MADV_HUGEPAGE);
  return begin + skip;
}
#endif

}  // namespace

Buffer allocate_host(size_t bytes) {
  if (bytes > size_t(1) << 56) out_of_memory(bytes);
#ifdef __linux__
  if (bytes >= 2 * kHugePage) {
    void* data = map_aligned(bytes);
    if (!data) out_of_memory(bytes);
    return Buffer(data, bytes, release_map);
  }
#endif
  const size_t rounded = bytes ? (bytes + 63) / 64 * 64 : 64;
  void* data = std::aligned_alloc(64, rounded);
  if (!data) out_of_memory(bytes);
  return Buffer(data, bytes, release_heap);
}

ScratchPool::Lease ScratchPool::take(size_t bytes) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    size_t best = idle_.size();
    for (size_t i = 0; i < idle_.size(); ++i) {
      if (idle_[i].bytes() < bytes) continue;
      if (best == idle_.size() || idle_[i].bytes() < idle_[best].bytes()) best = i;
    }
    if (best < idle_.size()) {
      Buffer found = std::move(idle_[best]);
      idle_.erase(idle_.begin() + std::ptrdiff_t(best));
      return Lease(*this, std::move(found));
    }
    // None is large enough: growing replaces the largest instead of adding to it.
    if (!idle_.empty()) idle_.pop_back();
  }
  return Lease(*this, allocate_host(bytes < 4096 ? 4096 : bytes));
}

ScratchPool::Lease::~Lease() {
  if (!buffer_.data()) return;
  std::lock_guard<std::mutex> lock(pool_->mutex_);
  auto at = pool_->idle_.begin();
  while (at != pool_->idle_.end() && at->bytes() < buffer_.bytes()) ++at;
  pool_->idle_.insert(at, std::move(buffer_));
}

}  // namespace s2ft
