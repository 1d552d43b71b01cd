#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "cuda/context.h"
#include "cuda/repeats.h"

namespace s2ft::cuda {

namespace {

constexpr size_t kFirstCapacity = size_t(16) << 10, kAlignment = 256;
// Shapes that are remembered, and those of them that have graphs: some megabytes each.
constexpr size_t kMostEntries = 64, kMostGraphs = 16;
// Work that has changed so often in a row is not looked at for a while.
constexpr int kMostMisses = 4, kRest = 100;

size_t rounded(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool asked_for() {
  const char* given = std::getenv("S2FT_CUDA_GRAPHS");
  const std::string value = given ? given : "";
  if (value == "off") return false;
  if (value.empty() || value == "on") return true;
  throw Error("INVALID_ARGUMENT",
              "S2FT_CUDA_GRAPHS: expected on or off, found \"" + value + "\"");
}

}  // namespace

Repeats::Repeats(Context& context) : context_(context), enabled_(asked_for()) {}

// The context waits for its stream before.
Repeats::~Repeats() {
  for (auto& [key, entry] : entries_) forget(entry);
  context_.give_back(device_, capacity_);
}

void Repeats::forget(Entry& entry) {
  if (entry.copying) cudaEventSynchronize(entry.copied);
  if (entry.graph) cudaGraphExecDestroy(entry.graph);
  if (entry.copied) cudaEventDestroy(entry.copied);
  if (entry.pinned) cudaFreeHost(entry.pinned);
  entry.graph = nullptr, entry.copied = nullptr, entry.pinned = nullptr;
  entry.copying = false;
  entry.transcript.clear();
}

Repeats::Entry& Repeats::find(uint64_t key) {
  const auto known = entries_.find(key);
  if (known != entries_.end()) return known->second;
  if (entries_.size() >= kMostEntries) {
    const auto oldest = std::min_element(
        entries_.begin(), entries_.end(),
        [](const auto& a, const auto& b) { return a.second.last < b.second.last; });
    forget(oldest->second);
    entries_.erase(oldest);
  }
  return entries_[key];
}

void Repeats::run(uint64_t key, const std::function<void()>& body) {
  if (!enabled_ || active()) return body();
  Entry& entry = find(key);
  entry.last = ++clock_;
  // What comes once costs nothing.
  const bool first = !entry.seen;
  entry.seen = true;
  if (first) return body();
  if (entry.resting > 0) {
    --entry.resting;
    return body();
  }
  if (!entry.transcript.empty()) {
    if (follow(entry, body) && start(entry)) return;
    forget(entry);
    miss(entry);
    if (entry.resting > 0) return body();
  }
  record(entry, body);
}

void Repeats::miss(Entry& entry) {
  if (++entry.misses <= kMostMisses) return;
  entry.misses = 0;
  entry.resting = kRest;
}

void Repeats::begin(Mode mode, Entry& entry) {
  mode_ = mode;
  entry_ = &entry;
  cursor_ = staged_ = 0;
  whole_ = true;
}

void Repeats::record(Entry& entry, const std::function<void()>& body) {
  reserve(kFirstCapacity);
  entry.transcript.clear();
  begin(Mode::recording, entry);
  try {
    body();
  } catch (...) {
    mode_ = Mode::idle;
    entry.transcript.clear();
    throw;
  }
  mode_ = Mode::idle;
  entry.staged_bytes = staged_;
  if (!whole_) miss(entry);
  const bool fits = staged_ <= capacity_;
  if (whole_ && fits) return;
  entry.transcript.clear();
  if (!fits) reserve(staged_);
}

bool Repeats::follow(Entry& entry, const std::function<void()>& body) {
  if (!entry.pinned && entry.staged_bytes) {
    void* pinned = nullptr;
    if (cudaMallocHost(&pinned, entry.staged_bytes) != cudaSuccess) {
      cudaGetLastError();
      return false;
    }
    entry.pinned = static_cast<char*>(pinned);
    check(cudaEventCreateWithFlags(&entry.copied, cudaEventDisableTiming),
          "cudaEventCreate");
  }
  if (entry.copying) check(cudaEventSynchronize(entry.copied), "cudaEventSynchronize");
  entry.copying = false;
  begin(Mode::following, entry);
  bool same = true;
  try {
    body();
    same = cursor_ == entry.transcript.size();
  } catch (const Diverged&) {
    same = false;
  } catch (...) {
    mode_ = Mode::idle;
    throw;
  }
  mode_ = Mode::idle;
  return same && (entry.graph || capture(entry, body));
}

bool Repeats::capture(Entry& entry, const std::function<void()>& body) {
  Entry* oldest = nullptr;
  size_t graphs = 0;
  for (auto& [key, other] : entries_) {
    if (!other.graph) continue;
    ++graphs;
    if (!oldest || other.last < oldest->last) oldest = &other;
  }
  if (graphs >= kMostGraphs) forget(*oldest);
  if (!context_.begin_capture()) {
    entry.misses = kMostMisses;  // this one is the last
    return false;
  }
  begin(Mode::capturing, entry);
  bool same = true;
  std::exception_ptr thrown;
  try {
    body();
    same = cursor_ == entry.transcript.size();
  } catch (const Diverged&) {
    same = false;
  } catch (const Error& e) {
    same = false;
    // The runtime refuses to capture something: it can still be done without a graph.
    if (e.code() != std::string("DEVICE_UNAVAILABLE")) thrown = std::current_exception();
  } catch (...) {
    same = false;
    thrown = std::current_exception();
  }
  mode_ = Mode::idle;
  cudaGraph_t graph = context_.end_capture();
  if (thrown) {
    if (graph) cudaGraphDestroy(graph);
    std::rethrow_exception(thrown);
  }
  if (graph && same && cudaGraphInstantiate(&entry.graph, graph, 0) != cudaSuccess) {
    entry.graph = nullptr;
    cudaGetLastError();
  }
  if (graph) cudaGraphDestroy(graph);
  if (!entry.graph) entry.misses = kMostMisses;
  return entry.graph != nullptr;
}

bool Repeats::start(Entry& entry) {
  if (entry.staged_bytes) {
    check(cudaMemcpyAsync(device_, entry.pinned, entry.staged_bytes,
                          cudaMemcpyHostToDevice, context_.stream()),
          "stage");
    check(cudaEventRecord(entry.copied, context_.stream()), "cudaEventRecord");
    entry.copying = true;
  }
  // A graph's first launch takes memory of the device, which may not be there.
  if (cudaGraphLaunch(entry.graph, context_.stream()) != cudaSuccess) {
    cudaGetLastError();
    entry.misses = kMostMisses;
    return false;
  }
  entry.misses = 0;
  return true;
}

void Repeats::write(const void* data, size_t bytes) {
  std::vector<char>& transcript = entry_->transcript;
  if (mode_ == Mode::recording) {
    const char* from = static_cast<const char*>(data);
    transcript.insert(transcript.end(), from, from + bytes);
    return;
  }
  if (bytes > transcript.size() - cursor_ ||
      std::memcmp(transcript.data() + cursor_, data, bytes) != 0)
    throw Diverged{};
  cursor_ += bytes;
}

const void* Repeats::stage(const void* host, size_t bytes) {
  note(Tag::stage);
  note(bytes);
  const size_t at = staged_;
  staged_ += rounded(bytes);
  if (mode_ == Mode::recording) {
    if (staged_ > capacity_) return context_.stage_in_turn(host, bytes);
    context_.copy_in(device_ + at, host, bytes);
  } else {
    std::memcpy(entry_->pinned + at, host, bytes);
  }
  return device_ + at;
}

void Repeats::refuse() {
  if (mode_ == Mode::recording) whole_ = false;
  grow();
}

void Repeats::grow() {
  if (mode_ == Mode::following || mode_ == Mode::capturing) throw Diverged{};
}

void Repeats::reserve(size_t bytes) {
  if (bytes <= capacity_) return;
  // All graphs read from where the memory was.
  for (auto& [key, entry] : entries_) forget(entry);
  context_.give_back(device_, capacity_);
  device_ = nullptr;
  capacity_ = 0;
  size_t wanted = kFirstCapacity;
  while (wanted < bytes) wanted *= 2;
  device_ = static_cast<char*>(context_.take(wanted));
  capacity_ = wanted;
}

}  // namespace s2ft::cuda
