// Work that comes again and again, as CUDA graphs.
//
// The host goes through the work every time. What that would put on the stream is written
// down at first; once the same has come again it is captured as a graph. From then on
// going through it starts nothing but compares, and the graph is launched if every
// kernel, every argument and every address is what the graph holds; else all is done as
// if there were no graphs. Arrays that the host sends along are not part of the
// comparison: they go to the device in one copy before the graph.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

namespace s2ft::cuda {

class Context;

class Repeats {
 public:
  /// Throws INVALID_ARGUMENT for a value of S2FT_CUDA_GRAPHS that means nothing.
  explicit Repeats(Context& context);
  ~Repeats();
  Repeats(const Repeats&) = delete;

  /// As Backend::repeat.
  void run(uint64_t key, const std::function<void()>& body);

  /// What is put on the stream, where a kernel's address does not tell.
  enum class Tag : uint64_t { stage = 1, zero, product, attention };
  /// Whether something is to be put on the stream now. `what` is all that it depends on,
  /// data on the device apart.
  template <class... T>
  bool proceed(const T&... what) {
    if (mode_ == Mode::idle) return true;
    (note(what), ...);
    return mode_ != Mode::following;
  }
  /// The same of a list.
  bool proceed(Tag tag, const std::vector<uint64_t>& what) {
    if (mode_ == Mode::idle) return true;
    note(tag);
    for (uint64_t value : what) note(value);
    return mode_ != Mode::following;
  }
  bool active() const { return mode_ != Mode::idle; }
  /// While active: where a copy of a host array is, or will be, on the device.
  const void* stage(const void* host, size_t bytes);
  /// For what no graph can hold: waiting, results for the host, memory for somebody else.
  void refuse();
  /// For memory that the context takes for its own use, which it keeps.
  void grow();

  /// Bytes of device memory that are held.
  size_t bytes() const { return capacity_; }

 private:
  enum class Mode { idle, recording, following, capturing };
  struct Entry {
    std::vector<char> transcript;
    size_t staged_bytes = 0;
    char* pinned = nullptr;  // what goes to the device before the graph
    cudaEvent_t copied = nullptr;
    bool copying = false;
    cudaGraphExec_t graph = nullptr;
    bool seen = false;
    int misses = 0;     // since the graph was last used
    int resting = 0;    // times that it is not looked at
    uint64_t last = 0;  // when it was last used
  };
  /// The work differs from what was written down.
  struct Diverged {};

  template <class T>
  void note(T value) {
    // What lies between members is anything.
    __builtin_clear_padding(&value);
    write(&value, sizeof value);
  }
  void write(const void* data, size_t bytes);

  Entry& find(uint64_t key);
  void forget(Entry& entry);
  void miss(Entry& entry);
  void begin(Mode mode, Entry& entry);
  void record(Entry& entry, const std::function<void()>& body);
  /// Whether body does what was written down, and the graph of that is ready.
  bool follow(Entry& entry, const std::function<void()>& body);
  bool capture(Entry& entry, const std::function<void()>& body);
  /// False where the runtime refuses.
  bool start(Entry& entry);
  void reserve(size_t bytes);

  Context& context_;
  bool enabled_ = true;
  Mode mode_ = Mode::idle;
  std::map<uint64_t, Entry> entries_;
  uint64_t clock_ = 0;
  // Of the work under way.
  Entry* entry_ = nullptr;
  size_t cursor_ = 0, staged_ = 0;
  bool whole_ = true;  // nothing was refused
  // Device memory for staged arrays, the same for all graphs.
  char* device_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace s2ft::cuda
