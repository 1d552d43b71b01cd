// Looks at every access that kernels make, when they were compiled with
// -fsanitize=thread: the compiler then calls a hook before each load and store, and these
// are the hooks (ThreadSanitizer's own library is not linked).
//
// Two accesses to one place, at least one of them a write, by different threads of one
// launch are a race unless something orders them: within a block __syncthreads, within a
// warp also __syncwarp (a vector clock a lane); nothing orders blocks. Shuffles order no
// memory, as in CUDA. Atomics are not looked at. Shared memory must be written before it
// is read, and device memory touched within one allocation; other memory of the host is
// not there for kernels.
#include "cuda/emulation/watch.h"

#include <link.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/emulation/block.h"
#include "cuda/emulation/device.h"

namespace s2ft::cuda::emulation {

namespace {

/// When and by whom a place was touched. Several readers at one time: `lanes` has them
/// when they are of one warp; kManyWarps tells that they are not.
struct Touch {
  uint32_t block = 0, epoch = 0, clock = 0, lanes = 0, warp = 0;
  uint32_t code = 0;  // pack_code()
};
constexpr uint32_t kManyWarps = 0xffffffff;

struct Cell {
  uint32_t time = 0;  // of the block that runs (shared memory) or the launch (global)
  Touch write, read;  // epoch 0: not yet
};

// Cells are for two bytes: bf16 neighbours may belong to different threads. Of single
// bytes only the bounds are looked at.
constexpr size_t kUnit = 2, kPageBytes = 4096;

struct Watch {
  pthread_t device{};
  uint32_t launch = 0, block_time = 0, block = 0, epoch = 0;
  Range dynamic{nullptr, 0}, fixed{nullptr, 0};  // shared memory
  std::vector<Cell> dynamic_cells, fixed_cells;
  std::unordered_map<uintptr_t, std::unique_ptr<Cell[]>> pages;
  uintptr_t page_number = ~uintptr_t(0);
  Cell* page = nullptr;          // the last that was touched, and
  Range allocation{nullptr, 0};  // its allocation
  std::vector<uint32_t> clocks;  // of each thread, for the lanes of its warp
};

// Set where something was compiled with the hooks: otherwise writes would not be seen.
bool watching = false;

Watch& watch() {
  static auto* w = new Watch;
  return *w;
}

/// Code addresses as differences: what is watched lies in one program.
uint32_t pack_code(const void* code) {
  return uint32_t(reinterpret_cast<uintptr_t>(code) - reinterpret_cast<uintptr_t>(watch));
}
const void* unpack_code(uint32_t code) {
  return reinterpret_cast<const char*>(watch) + int32_t(code);
}

uint32_t* clocks_of(unsigned thread) {
  return &watch().clocks[size_t(thread) * kWarp];
}

struct Place {
  uintptr_t address, offset = 0;
  bool found = false;
};

/// The place in the executable or library that holds `address`.
Place find_place(const void* address) {
  Place place{reinterpret_cast<uintptr_t>(address)};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        auto& p = *static_cast<Place*>(out);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
          if (segment.p_type == PT_LOAD && p.address >= begin &&
              p.address < begin + segment.p_memsz) {
            p.offset = p.address - info->dlpi_addr;
            p.found = true;
            return 1;
          }
        }
        return 0;
      },
      &place);
  return place;
}

/// File and line of a code address, where addr2line is installed.
std::string code_text(const void* code) {
  const Place place = find_place(static_cast<const char*>(code) - 1);
  char text[512];
  std::snprintf(text, sizeof text, "addr2line -ie /proc/%d/exe %#zx 2>/dev/null",
                int(getpid()), size_t(place.offset));
  std::string line;
  if (FILE* pipe = popen(text, "r")) {
    while (std::fgets(text, sizeof text, pipe)) line += text;
    pclose(pipe);
  }
  while (!line.empty() && line.back() == '\n') line.pop_back();
  // Inlined functions: the innermost first.
  for (size_t i; (i = line.find('\n')) != std::string::npos;) line.replace(i, 1, ", ");
  if (line.empty() || line[0] == '?') {
    std::snprintf(text, sizeof text, "code at offset %#zx", size_t(place.offset));
    return text;
  }
  return line;
}

std::string touch_text(const Touch& t, const char* what) {
  char text[256];
  if (t.warp == kManyWarps) {
    std::snprintf(text, sizeof text, "%s by several warps of block %u", what, t.block);
  } else {
    std::snprintf(text, sizeof text, "%s by block %u, warp %u, lanes 0x%08x", what,
                  t.block, t.warp, t.lanes);
  }
  return text + (" in " + code_text(unpack_code(t.code)));
}

/// Whether the running thread comes after `t`, or is the only one that made it.
bool ordered(const Touch& t, unsigned thread) {
  const Watch& w = watch();
  if (!t.epoch) return true;
  if (t.block != w.block) return false;
  if (t.epoch != w.epoch) return true;
  if (t.warp != thread / kWarp) return false;
  for (uint32_t rest = t.lanes & ~(1u << thread % kWarp); rest; rest &= rest - 1) {
    if (clocks_of(thread)[__builtin_ctz(rest)] < t.clock) return false;
  }
  return true;
}

void note(Touch& t, unsigned thread, bool several, uint32_t code) {
  const Watch& w = watch();
  const uint32_t warp = thread / kWarp, lane = 1u << thread % kWarp;
  const uint32_t clock = clocks_of(thread)[thread % kWarp];
  if (several && t.epoch == w.epoch && t.block == w.block) {
    if (t.warp == warp) {
      t.lanes |= lane;
      t.clock = std::max(t.clock, clock);
    } else {
      t.warp = kManyWarps;
    }
    t.code = code;
  } else {
    t = {w.block, w.epoch, clock, lane, warp, code};
  }
}

[[noreturn]] void report_race(const Cell& cell, unsigned thread, bool write,
                              const void* at, const void* code, const char* memory) {
  const bool by_write = !ordered(cell.write, thread);
  violation("race in %s memory at %p: %s in %s, and %s", memory, at,
            write ? "written" : "read", code_text(code).c_str(),
            touch_text(by_write ? cell.write : cell.read, by_write ? "written" : "read")
                .c_str());
}

void check_cell(Cell& cell, uint32_t time, unsigned thread, bool write, const void* at,
                const void* code, const char* memory) {
  if (cell.time != time) {
    cell = {};
    cell.time = time;
  }
  if (!ordered(cell.write, thread) || (write && !ordered(cell.read, thread)))
    report_race(cell, thread, write, at, code, memory);
  note(write ? cell.write : cell.read, thread, !write, pack_code(code));
}

void check_shared(const Range& range, std::vector<Cell>& cells, const char* at,
                  size_t bytes, bool write, const void* code) {
  if (!range.contains(at, bytes)) {
    violation(
        "access to %zu bytes at the end of shared memory, where %td are left, in %s",
        bytes, range.begin + range.bytes - at, code_text(code).c_str());
  }
  const Watch& w = watch();
  const unsigned thread = thread_number();
  const size_t begin = size_t(at - range.begin);
  if (bytes < kUnit) return;
  for (size_t i = begin / kUnit; i <= (begin + bytes - 1) / kUnit; ++i) {
    Cell& cell = cells[i];
    if (!write && (cell.time != w.block_time || !cell.write.epoch)) {
      violation("shared memory is read before it is written, byte %zu of its part, in %s",
                i * kUnit, code_text(code).c_str());
    }
    check_cell(cell, w.block_time, thread, write, at, code, "shared");
  }
}

void check_global(const char* at, size_t bytes, bool write, const void* code) {
  Watch& w = watch();
  if (!w.allocation.contains(at, bytes)) {
    w.allocation = device_allocation(at);
    if (!w.allocation.contains(at, bytes)) {
      violation(
          "%s of %zu bytes at %p, which is outside of every allocation, or freed, "
          "in %s",
          write ? "write" : "read", bytes, static_cast<const void*>(at),
          code_text(code).c_str());
    }
  }
  if (bytes < kUnit) return;
  const unsigned thread = thread_number();
  const uintptr_t begin = reinterpret_cast<uintptr_t>(at);
  for (uintptr_t i = begin / kUnit; i <= (begin + bytes - 1) / kUnit; ++i) {
    const uintptr_t number = i * kUnit / kPageBytes;
    if (number != w.page_number) {
      std::unique_ptr<Cell[]>& page = w.pages[number];
      if (!page) page = std::make_unique<Cell[]>(kPageBytes / kUnit);
      w.page = page.get();
      w.page_number = number;
    }
    check_cell(w.page[i % (kPageBytes / kUnit)], w.launch, thread, write, at, code,
               "device");
  }
}

void look(const void* address, size_t bytes, bool write, const void* code) {
  if (!watching || !in_kernel()) return;
  Watch& w = watch();
  if (!pthread_equal(pthread_self(), w.device)) return;
  const char* at = static_cast<const char*>(address);
  if (w.dynamic.contains(at, 1)) {
    return check_shared(w.dynamic, w.dynamic_cells, at, bytes, write, code);
  }
  if (w.fixed.contains(at, 1)) {
    return check_shared(w.fixed, w.fixed_cells, at, bytes, write, code);
  }
  if (in_device_arena(at)) return check_global(at, bytes, write, code);
  if (on_thread_stack(at) || pinned_allocation(at).begin) return;
  // Constants and the emulation's own variables lie in the program.
  if (find_place(at).found) return;
  const char* special = stack_or_shared_text(address);
  violation("kernel touches memory of the host at %p%s%s, in %s", address,
            special ? ": " : "", special ? special : "", code_text(code).c_str());
}

}  // namespace

void watch_launch() {
  Watch& w = watch();
  w.device = pthread_self();
  w.allocation = {nullptr, 0};
  ++w.launch;
}

void watch_block(unsigned number, unsigned threads, void* dynamic_begin,
                 size_t dynamic_bytes, void* static_begin, size_t static_bytes) {
  if (!watching) return;
  Watch& w = watch();
  w.block = number;
  w.epoch = 1;
  ++w.block_time;
  w.dynamic = {static_cast<char*>(dynamic_begin), dynamic_bytes};
  w.fixed = {static_cast<char*>(static_begin), static_bytes};
  const auto make_room = [](std::vector<Cell>& cells, size_t bytes) {
    if (cells.size() < bytes / kUnit + 1) cells.resize(bytes / kUnit + 1);
  };
  make_room(w.dynamic_cells, dynamic_bytes);
  make_room(w.fixed_cells, static_bytes);
  w.clocks.assign(size_t(threads) * kWarp, 0);
  for (unsigned i = 0; i < threads; ++i) clocks_of(i)[i % kWarp] = 1;
}

void watch_barrier() {
  ++watch().epoch;
}

void watch_meeting(unsigned base, unsigned mask) {
  if (!watching) return;
  Watch& w = watch();
  uint32_t joined[kWarp] = {};
  const unsigned threads = unsigned(w.clocks.size() / kWarp);
  for (unsigned lane = 0; lane < kWarp && base + lane < threads; ++lane) {
    if (!(mask >> lane & 1)) continue;
    for (unsigned i = 0; i < kWarp; ++i) {
      joined[i] = std::max(joined[i], clocks_of(base + lane)[i]);
    }
  }
  for (unsigned lane = 0; lane < kWarp && base + lane < threads; ++lane) {
    if (!(mask >> lane & 1)) continue;
    std::copy(joined, joined + kWarp, clocks_of(base + lane));
    ++clocks_of(base + lane)[lane];
  }
}

void watch_read(const void* at, size_t bytes, const void* code) {
  look(at, bytes, false, code);
}
void watch_write(void* at, size_t bytes, const void* code) {
  look(at, bytes, true, code);
}

}  // namespace s2ft::cuda::emulation

// -- the hooks --------------------------------------------------------------------------

#define S2FT_HOOK(name, bytes, write)                                           \
  extern "C" void name(void* at) {                                              \
    s2ft::cuda::emulation::look(at, bytes, write, __builtin_return_address(0)); \
  }
#define S2FT_HOOKS(bytes)                               \
  S2FT_HOOK(__tsan_read##bytes, bytes, false)           \
  S2FT_HOOK(__tsan_write##bytes, bytes, true)           \
  S2FT_HOOK(__tsan_unaligned_read##bytes, bytes, false) \
  S2FT_HOOK(__tsan_unaligned_write##bytes, bytes, true)
S2FT_HOOKS(1)
S2FT_HOOKS(2)
S2FT_HOOKS(4)
S2FT_HOOKS(8)
S2FT_HOOKS(16)

extern "C" {
void __tsan_init() {
  s2ft::cuda::emulation::watching = true;
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_read_range(void* at, size_t bytes) {
  s2ft::cuda::emulation::look(at, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* at, size_t bytes) {
  s2ft::cuda::emulation::look(at, bytes, true, __builtin_return_address(0));
}
}

// Host code of the same files uses atomics (shared pointers, statics).
#define S2FT_ATOMICS(bits, T)                                                      \
  extern "C" T __tsan_atomic##bits##_load(const volatile T* at, int) {             \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                  \
  }                                                                                \
  extern "C" void __tsan_atomic##bits##_store(volatile T* at, T x, int) {          \
    __atomic_store_n(at, x, __ATOMIC_SEQ_CST);                                     \
  }                                                                                \
  extern "C" T __tsan_atomic##bits##_exchange(volatile T* at, T x, int) {          \
    return __atomic_exchange_n(at, x, __ATOMIC_SEQ_CST);                           \
  }                                                                                \
  extern "C" T __tsan_atomic##bits##_fetch_add(volatile T* at, T x, int) {         \
    return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST);                            \
  }                                                                                \
  extern "C" T __tsan_atomic##bits##_fetch_sub(volatile T* at, T x, int) {         \
    return __atomic_fetch_sub(at, x, __ATOMIC_SEQ_CST);                            \
  }                                                                                \
  extern "C" T __tsan_atomic##bits##_fetch_or(volatile T* at, T x, int) {          \
    return __atomic_fetch_or(at, x, __ATOMIC_SEQ_CST);                             \
  }                                                                                \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(                    \
      volatile T* at, T* expected, T x, int, int) {                                \
    return __atomic_compare_exchange_n(at, expected, x, false, __ATOMIC_SEQ_CST,   \
                                       __ATOMIC_SEQ_CST);                          \
  }                                                                                \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(                      \
      volatile T* at, T* expected, T x, int success, int failure) {                \
    return __tsan_atomic##bits##_compare_exchange_strong(at, expected, x, success, \
                                                         failure);                 \
  }
S2FT_ATOMICS(8, uint8_t)
S2FT_ATOMICS(32, uint32_t)
S2FT_ATOMICS(64, uint64_t)
