#include "cuda/emulation/block.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/emulation/fiber.h"
#include "cuda/emulation/pending.h"
#include "cuda/emulation/watch.h"
#include "cuda_runtime.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace s2ft::cuda::emulation {

namespace {

enum class State { fresh, ready, at_barrier, in_warp, finished };

struct Thread {
  State state = State::fresh;
  uint3 index{};
  Fiber* fiber = nullptr;
  // Where it waits.
  const void* place = nullptr;
  const char* file = nullptr;
  int line = 0, value = 0;
  unsigned mask = 0;
  Resolve resolve = nullptr;
  const char* operation = nullptr;
  void* argument = nullptr;
  bool orders_memory = false;
  PendingCopies copies;
};

struct Machine {
  const Launch* launch = nullptr;  // null: no kernel runs
  std::vector<Thread> threads;
  unsigned running = 0, count = 0, finished = 0, waiting = 0;
  int sum = 0, result = 0;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  unsigned char* shared = nullptr;  // of the running block
  unsigned char* shared_end = nullptr;
  unsigned order = [] {
    const char* given = std::getenv("S2FT_EMULATION_ORDER");
    return given ? unsigned(std::strtoul(given, nullptr, 10)) : 0u;
  }();
  std::mt19937 random{order};
  std::vector<unsigned> turns;
};

Machine machine;

// -- shared memory --------------------------------------------------------------------

thread_local char own_thread_local;

int find_module(dl_phdr_info* info, size_t, void* out) {
  auto* found = static_cast<std::pair<char*, size_t>*>(out);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_TLS || !info->dlpi_tls_data) continue;
    char* begin = static_cast<char*>(info->dlpi_tls_data);
    if (&own_thread_local >= begin && &own_thread_local < begin + segment.p_memsz) {
      *found = {begin, segment.p_memsz};
      return 1;
    }
  }
  return 0;
}

/// Where this library's thread-local variables lie for the device's thread: the static
/// __shared__ arrays.
std::pair<char*, size_t> static_shared() {
  static const std::pair<char*, size_t> found = [] {
    own_thread_local = 1;
    std::pair<char*, size_t> at{nullptr, 0};
    dl_iterate_phdr(find_module, &at);
    return at;
  }();
  return found;
}

void prepare_shared(size_t bytes) {
  constexpr size_t kPage = 4096, kRoom = (kSharedLimit + kPage - 1) / kPage * kPage;
  if (!machine.shared_end) {
    void* p =
        mmap(nullptr, kRoom + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    mprotect(static_cast<char*>(p) + kPage, kRoom, PROT_READ | PROT_WRITE);
    machine.shared_end = static_cast<unsigned char*>(p) + kPage + kRoom;
  }
  // Its end meets a page that cannot be touched; its beginning is aligned no better than
  // S2FT_DYNAMIC_SHARED promises.
  machine.shared = machine.shared_end - (bytes + 15) / 16 * 16;
  std::memset(machine.shared, 0xff, size_t(machine.shared_end - machine.shared));
  const auto [begin, size] = static_shared();
  std::memset(begin, 0xff, size);
  const unsigned number = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  watch_block(number, machine.count, machine.shared, bytes, begin, size);
}

// -- threads --------------------------------------------------------------------------

void enter_thread(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  machine.launch->run(machine.launch->body.get());
  thread.state = State::finished;
  thread.fiber->suspend();
}

void give_turn(unsigned number) {
  Thread& thread = machine.threads[number];
  if (thread.state == State::fresh) {
    if (machine.idle.empty()) {
      machine.fibers.push_back(std::make_unique<Fiber>(unsigned(machine.fibers.size())));
      machine.idle.push_back(machine.fibers.back().get());
    }
    thread.fiber = machine.idle.back();
    machine.idle.pop_back();
    thread.fiber->start(enter_thread, &thread);
    thread.state = State::ready;
  }
  machine.running = number;
  threadIdx = thread.index;
  thread.fiber->resume();
}

void wait_for_turn() {
  machine.threads[machine.running].fiber->suspend();
}

std::string thread_text(const Thread& thread) {
  char text[128];
  std::snprintf(text, sizeof text, "thread (%u, %u, %u)", thread.index.x, thread.index.y,
                thread.index.z);
  return text;
}

std::string waits_text(const Thread& thread) {
  char text[512];
  switch (thread.state) {
    case State::at_barrier:
      std::snprintf(text, sizeof text, "waits at __syncthreads() %s:%d", thread.file,
                    thread.line);
      return text;
    case State::in_warp:
      std::snprintf(text, sizeof text, "waits in %s with mask 0x%08x", thread.operation,
                    thread.mask);
      return text;
    case State::finished:
      return "has left the kernel";
    default:
      return "has not come to a stop";
  }
}

/// Whether everyone is at the barrier; if so they go on.
bool open_barrier() {
  if (machine.waiting + machine.finished < machine.count) return false;
  const Thread* first = nullptr;
  for (unsigned i = 0; i < machine.count; ++i) {
    Thread& thread = machine.threads[i];
    if (thread.state == State::finished) continue;
    if (!first) first = &thread;
    if (thread.place != first->place) {
      violation("threads meet at different barriers: %s %s, %s %s",
                thread_text(*first).c_str(), waits_text(*first).c_str(),
                thread_text(thread).c_str(), waits_text(thread).c_str());
    }
  }
  if (machine.finished) {
    for (unsigned i = 0; i < machine.count; ++i) {
      if (machine.threads[i].state != State::finished) continue;
      violation("%s has left the kernel while %s %s",
                thread_text(machine.threads[i]).c_str(), thread_text(*first).c_str(),
                waits_text(*first).c_str());
    }
  }
  for (unsigned i = 0; i < machine.count; ++i) machine.threads[i].state = State::ready;
  machine.result = machine.sum;
  machine.sum = 0;
  machine.waiting = 0;
  watch_barrier();
  return true;
}

/// Whether all lanes that lane `number` waits for have come; if so they go on.
bool open_meeting(unsigned number) {
  const unsigned base = number / kWarp * kWarp;
  const Thread& own = machine.threads[number];
  void* arguments[kWarp] = {};
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(own.mask >> lane & 1) || base + lane >= machine.count) continue;
    Thread& other = machine.threads[base + lane];
    if (other.state == State::finished) continue;
    if (other.state != State::in_warp) return false;
    if (other.mask != own.mask || other.resolve != own.resolve) {
      violation("lanes of a warp do not agree: %s %s, %s %s", thread_text(own).c_str(),
                waits_text(own).c_str(), thread_text(other).c_str(),
                waits_text(other).c_str());
    }
    arguments[lane] = other.argument;
  }
  own.resolve(arguments, own.mask);
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (arguments[lane]) machine.threads[base + lane].state = State::ready;
  }
  if (own.orders_memory) watch_meeting(base, own.mask);
  return true;
}

void leave(unsigned number) {
  Thread& thread = machine.threads[number];
  machine.idle.push_back(thread.fiber);
  thread.fiber = nullptr;
  ++machine.finished;
  if (!thread.copies.list.empty()) {
    violation("%s left the kernel while its copies by cp.async were under way",
              thread_text(thread).c_str());
  }
  if (machine.waiting) open_barrier();
  const unsigned base = number / kWarp * kWarp;
  for (unsigned lane = 0; lane < kWarp && base + lane < machine.count; ++lane) {
    const Thread& other = machine.threads[base + lane];
    if (other.state == State::in_warp && (other.mask >> (number - base) & 1)) {
      open_meeting(base + lane);
    }
  }
}

void order_turns(std::vector<unsigned>& turns, unsigned count) {
  turns.resize(count);
  for (unsigned i = 0; i < count; ++i) turns[i] = machine.order == 1 ? count - 1 - i : i;
  if (machine.order > 1) std::shuffle(turns.begin(), turns.end(), machine.random);
}

[[noreturn]] void report_deadlock() {
  std::string text;
  int told = 0;
  for (unsigned i = 0; i < machine.count && told < 4; ++i) {
    const Thread& thread = machine.threads[i];
    // The first thread, and every one that waits elsewhere than the one before it.
    if (i && thread.state == machine.threads[i - 1].state &&
        thread.place == machine.threads[i - 1].place) {
      continue;
    }
    text += (told++ ? "; " : "") + thread_text(thread) + " " + waits_text(thread);
  }
  violation("the block cannot go on: %s", text.c_str());
}

void run_block() {
  for (unsigned i = 0; i < machine.count; ++i) {
    Thread& thread = machine.threads[i];
    thread.state = State::fresh;
    thread.copies = {};
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y,
                    i / (blockDim.x * blockDim.y)};
  }
  machine.finished = machine.waiting = 0;
  machine.sum = 0;
  prepare_shared(machine.launch->shared);
  while (machine.finished < machine.count) {
    order_turns(machine.turns, machine.count);
    bool moved = false;
    for (unsigned number : machine.turns) {
      Thread& thread = machine.threads[number];
      if (thread.state != State::fresh && thread.state != State::ready) continue;
      moved = true;
      give_turn(number);
      if (thread.state == State::finished) leave(number);
    }
    if (!moved) report_deadlock();
  }
}

}  // namespace

cudaError_t check_launch(const Launch& launch) {
  const dim3 &g = launch.grid, &b = launch.block;
  const uint64_t threads = uint64_t(b.x) * b.y * b.z;
  if (!threads || threads > kThreadsLimit || b.z > 64 || !g.x || !g.y || !g.z ||
      g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  return launch.shared > kSharedLimit ? cudaErrorInvalidValue : cudaSuccess;
}

void run_launch(const Launch& launch) {
  machine.launch = &launch;
  machine.count = launch.block.x * launch.block.y * launch.block.z;
  if (machine.threads.size() < machine.count) machine.threads.resize(machine.count);
  gridDim = launch.grid;
  blockDim = launch.block;
  std::vector<unsigned> blocks;
  order_turns(blocks, launch.grid.x * launch.grid.y * launch.grid.z);
  watch_launch();
  for (unsigned number : blocks) {
    blockIdx = {number % gridDim.x, number / gridDim.x % gridDim.y,
                number / (gridDim.x * gridDim.y)};
    run_block();
  }
  machine.launch = nullptr;
}

void set_order(unsigned seed) {
  machine.order = seed;
  machine.random.seed(seed);
}

int block_barrier(const void* place, const char* file, int line, int value) {
  Thread& thread = machine.threads[machine.running];
  thread.state = State::at_barrier;
  thread.place = place;
  thread.file = file;
  thread.line = line;
  machine.sum += value;
  ++machine.waiting;
  if (!open_barrier()) wait_for_turn();
  return machine.result;
}

void warp_meet(unsigned mask, Resolve resolve, const char* operation, void* argument,
               bool orders_memory) {
  const unsigned number = machine.running, lane = number % kWarp;
  Thread& thread = machine.threads[number];
  if (!(mask >> lane & 1)) {
    violation("%s with mask 0x%08x, which leaves out the calling lane %u", operation,
              mask, lane);
  }
  thread.state = State::in_warp;
  thread.mask = mask;
  thread.resolve = resolve;
  thread.operation = operation;
  thread.argument = argument;
  thread.orders_memory = orders_memory;
  if (!open_meeting(number)) wait_for_turn();
}

unsigned char* dynamic_shared() {
  return machine.shared;
}
size_t dynamic_shared_bytes() {
  return machine.launch->shared;
}
bool in_kernel() {
  return machine.launch != nullptr;
}
unsigned lane_index() {
  return machine.running % kWarp;
}
unsigned thread_number() {
  return machine.running;
}
PendingCopies& pending_copies() {
  return machine.threads[machine.running].copies;
}

const char* where_text() {
  static char text[1024];
  if (!machine.launch) return "no kernel is running";
  std::snprintf(
      text, sizeof text,
      "block (%u, %u, %u) of (%u, %u, %u), thread (%u, %u, %u) of (%u, %u, %u), "
      "kernel %s",
      blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, threadIdx.x,
      threadIdx.y, threadIdx.z, blockDim.x, blockDim.y, blockDim.z,
      machine.launch->kernel);
  return text;
}

const char* stack_or_shared_text(const void* address) {
  for (const auto& fiber : machine.fibers) {
    if (fiber->guards(address)) return "the thread's stack is used up";
  }
  const auto* at = static_cast<const unsigned char*>(address);
  if (machine.shared && at >= machine.shared_end && at < machine.shared_end + 4096) {
    return "it lies beyond the dynamic shared memory";
  }
  return nullptr;
}

bool on_thread_stack(const void* address) {
  for (const auto& fiber : machine.fibers) {
    if (fiber->holds(address)) return true;
  }
  return false;
}

void violation(const char* format, ...) {
  std::fprintf(stderr, "CUDA emulation: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n  at %s\n", where_text());
  std::fflush(stderr);
  std::abort();
}

}  // namespace s2ft::cuda::emulation
