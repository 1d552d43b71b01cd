// Device memory: pages of their own for every allocation, with pages that cannot be
// touched around them, and closed to everyone while no kernel or copy runs. Addresses are
// not used again, so what was freed stays closed.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

#include "cuda/emulation/block.h"
#include "cuda/emulation/device.h"

namespace s2ft::cuda::emulation {

namespace {

constexpr size_t kPage = 4096, kArena = size_t(1) << 40, kAlignment = 256;

struct Allocation {
  size_t bytes;
  char* pages;
  size_t pages_bytes;
};

size_t total_memory() {
  const char* given = std::getenv("S2FT_EMULATION_MEMORY");
  return given ? size_t(std::strtoull(given, nullptr, 10)) : size_t(16) << 30;
}

struct Memory {
  std::mutex mutex;
  char *arena = nullptr, *next = nullptr;
  std::map<const char*, Allocation> device;
  std::map<const char*, size_t> pinned;
  size_t used = 0, peak = 0, total = total_memory();
  bool open = false;

  Memory();
};

// Never destroyed: buffers with static lifetime may be freed after it would be.
Memory& memory() {
  static Memory* m = new Memory;
  return *m;
}

struct sigaction earlier;

void write_text(const char* text) {
  if (write(2, text, std::strlen(text)) < 0) return;
}

void on_fault(int number, siginfo_t* info, void*) {
  const void* at = info->si_addr;
  char text[256];
  const char* special = in_kernel() ? stack_or_shared_text(at) : nullptr;
  if (!special && !in_device_arena(at)) {
    if (in_kernel()) {
      std::snprintf(text, sizeof text, "CUDA emulation: kernel touched address %p\n  at ",
                    at);
      write_text(text);
      write_text(where_text());
      write_text("\n");
    }
    sigaction(number, &earlier, nullptr);
    return;  // to fault again
  }
  const char* what = special ? special
                     : in_kernel()
                         ? "it is device memory outside of every allocation, or freed"
                         : "it is device memory, which the host may not touch (or a copy "
                           "beyond an allocation)";
  std::snprintf(text, sizeof text, "CUDA emulation: invalid access to %p: %s\n  at ", at,
                what);
  write_text(text);
  write_text(where_text());
  write_text("\n");
  signal(SIGABRT, SIG_DFL);
  abort();
}

Memory::Memory() {
  void* p = mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
  if (p == MAP_FAILED) {
    std::fprintf(stderr, "CUDA emulation: cannot reserve addresses for device memory\n");
    std::abort();
  }
  arena = next = static_cast<char*>(p);
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &earlier);
}

void protect(Memory& m, int protection) {
  for (auto& [begin, a] : m.device) mprotect(a.pages, a.pages_bytes, protection);
}

/// The thread that runs what streams hold.
class Worker {
 public:
  Worker() : thread_([this] { run(); }) { thread_.detach(); }

  void operator()(const std::function<void()>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !work_; });
    work_ = &work;
    changed_.notify_all();
    changed_.wait(lock, [this, &work] { return work_ != &work; });
  }
  bool is_this() const { return std::this_thread::get_id() == id_; }

 private:
  void run() {
    id_ = std::this_thread::get_id();
    // A thread's stack may be used up when the fault is reported.
    static char stack[64 * 1024];
    stack_t alternative{};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return work_ != nullptr; });
      lock.unlock();
      (*work_)();
      lock.lock();
      work_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  std::thread::id id_;
  std::thread thread_;
};

Worker& worker() {
  static Worker* w = new Worker;
  return *w;
}

}  // namespace

void on_device(const std::function<void()>& work) {
  const std::function<void()> guarded = [&work] {
    Memory& m = memory();
    std::lock_guard<std::mutex> lock(m.mutex);
    m.open = true;
    protect(m, PROT_READ | PROT_WRITE);
    work();
    protect(m, PROT_NONE);
    m.open = false;
  };
  worker()(guarded);
}

Range device_allocation(const void* at) {
  const auto& map = memory().device;
  auto next = map.upper_bound(static_cast<const char*>(at));
  if (next == map.begin()) return {nullptr, 0};
  --next;
  const Range range{next->first, next->second.bytes};
  return range.contains(at, 1) ? range : Range{nullptr, 0};
}

Range pinned_allocation(const void* at) {
  const auto& map = memory().pinned;
  auto next = map.upper_bound(static_cast<const char*>(at));
  if (next == map.begin()) return {nullptr, 0};
  --next;
  const Range range{next->first, next->second};
  return range.contains(at, 1) ? range : Range{nullptr, 0};
}

bool in_device_arena(const void* at) {
  const char* p = static_cast<const char*>(at);
  return p >= memory().arena && p < memory().arena + kArena;
}

size_t allocated_bytes() {
  return memory().used;
}
size_t peak_allocated_bytes() {
  return memory().peak;
}
void reset_peak() {
  memory().peak = memory().used;
}

}  // namespace s2ft::cuda::emulation

using namespace s2ft::cuda::emulation;

namespace {

bool fits(const Memory& m, size_t bytes) {
  return bytes <= m.total && m.used <= m.total - bytes;
}

cudaError_t release(Memory& m, void* pointer) {
  auto found = m.device.find(static_cast<char*>(pointer));
  if (found == m.device.end()) return report(cudaErrorInvalidValue);
  const Allocation a = found->second;
  mprotect(a.pages, a.pages_bytes, PROT_READ);
  const auto* end = static_cast<unsigned char*>(pointer) + a.bytes;
  const auto* begin = reinterpret_cast<unsigned char*>(a.pages);
  bool intact = true;
  for (auto* p = begin; p < pointer; ++p) intact &= *p == 0xff;
  for (auto* p = end; p < begin + a.pages_bytes; ++p) intact &= *p == 0xff;
  if (!intact) {
    violation("memory just outside of an allocation of %zu bytes was written", a.bytes);
  }
  mprotect(a.pages, a.pages_bytes, PROT_NONE);
  madvise(a.pages, a.pages_bytes, MADV_DONTNEED);
  m.used -= a.bytes;
  m.device.erase(found);
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  *pointer = nullptr;
  if (!bytes) return cudaSuccess;
  Memory& m = memory();
  // Something may be waiting to be freed.
  if (!fits(m, bytes)) drain_all();
  std::lock_guard<std::mutex> lock(m.mutex);
  const size_t padded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t pages = (padded + kPage - 1) / kPage * kPage;
  if (!fits(m, bytes) || m.next + pages + 2 * kPage > m.arena + kArena) {
    return report(cudaErrorMemoryAllocation);
  }
  char* begin = m.next + kPage;
  m.next = begin + pages;
  // Its end is close to the next page, which stays closed.
  char* at = begin + pages - padded;
  mprotect(begin, pages, PROT_READ | PROT_WRITE);
  std::memset(begin, 0xff, pages);
  mprotect(begin, pages, PROT_NONE);
  m.device[at] = {bytes, begin, pages};
  m.used += bytes;
  m.peak = std::max(m.peak, m.used);
  *pointer = at;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (!pointer) return cudaSuccess;
  drain_all();
  Memory& m = memory();
  std::lock_guard<std::mutex> lock(m.mutex);
  return release(m, pointer);
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  cudaStreamIsCapturing(stream, &status);
  if (status != cudaStreamCaptureStatusNone) return report(cudaErrorNotSupported);
  return cudaMalloc(pointer, bytes);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  if (!pointer) return cudaSuccess;
  if (!device_allocation(pointer).begin) return report(cudaErrorInvalidValue);
  // Work holds the lock while it runs.
  return enqueue(stream, [pointer] { release(memory(), pointer); });
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int) {
  *pointer = nullptr;
  if (!bytes) return cudaSuccess;
  void* p = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!p) return report(cudaErrorMemoryAllocation);
  std::memset(p, 0xff, bytes);
  *pointer = p;
  return cudaHostRegister(p, bytes, 0);
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes, unsigned int flags) {
  return cudaHostAlloc(pointer, bytes, flags);
}
cudaError_t cudaFreeHost(void* pointer) {
  if (!pointer) return cudaSuccess;
  const cudaError_t status = cudaHostUnregister(pointer);
  if (status == cudaSuccess) std::free(pointer);
  return status;
}
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned int) {
  Memory& m = memory();
  std::lock_guard<std::mutex> lock(m.mutex);
  m.pinned[static_cast<char*>(pointer)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* pointer) {
  drain_all();
  Memory& m = memory();
  std::lock_guard<std::mutex> lock(m.mutex);
  return m.pinned.erase(static_cast<char*>(pointer)) ? cudaSuccess
                                                     : report(cudaErrorInvalidValue);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = memory().total;
  *free = memory().total - memory().used;
  return cudaSuccess;
}
