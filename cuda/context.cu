#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"
#include "cuda/context.h"
#include "cuda/products.h"

namespace s2ft::cuda {

namespace {

constexpr size_t kHalfBytes = size_t(4) << 20;
constexpr size_t kAlignment = 256;
// An operation stages few arrays; each fits into a half so often that they never meet.
constexpr size_t kArraysOfAnOperation = 8;
constexpr size_t kUploadBytes = kHalfBytes / kArraysOfAnOperation;

size_t rounded(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

[[noreturn]] void out_of_memory(size_t bytes) {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  throw Error("OUT_OF_MEMORY", "[cuda] expected " + std::to_string(bytes) +
                                   " bytes of device memory, found " +
                                   std::to_string(free) + " free of " +
                                   std::to_string(total));
}

}  // namespace

void check(cudaError_t status, const char* where) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  const std::string what = std::string("[cuda] ") + where + ": " +
                           cudaGetErrorString(status) + " (" + cudaGetErrorName(status) +
                           ")";
  throw Error(
      status == cudaErrorMemoryAllocation ? "OUT_OF_MEMORY" : "DEVICE_UNAVAILABLE", what);
}

Context::Context(int device)
    : device_(device), repeats_(std::make_unique<Repeats>(*this)) {
  enter();
  multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount, device);
  capability_ = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                attribute(cudaDevAttrComputeCapabilityMinor, device);
  shared_limit_ = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  // Memory that was freed stays at hand instead of going back at every wait.
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  uint64_t keep = UINT64_MAX;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
        "cudaMemPoolSetAttribute");
  for (Half& half : halves_) {
    check(cudaEventCreateWithFlags(&half.copied, cudaEventDisableTiming),
          "cudaEventCreate");
  }
  grow(kHalfBytes);
  products_ = std::make_unique<Products>(*this);
}

Context::~Context() {
  // Nothing here may throw: a context ends while errors are under way as well.
  cudaSetDevice(device_);
  if (stream_) cudaStreamSynchronize(stream_);
  products_.reset();
  repeats_.reset();
  outgrown_.push_back(staging_);
  for (const Staging& s : outgrown_) {
    if (s.host) cudaFreeHost(s.host);
    give_back(s.device, 2 * s.half_bytes);
  }
  give_back(scratch_, scratch_bytes_);
  for (const Half& half : halves_)
    if (half.copied) cudaEventDestroy(half.copied);
  if (stream_) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
}

void Context::enter() const {
  check(cudaSetDevice(device_), "cudaSetDevice");
}

void* Context::take(size_t bytes) {
  repeats_->grow();
  void* data = nullptr;
  const cudaError_t status = cudaMallocAsync(&data, std::max<size_t>(bytes, 1), stream_);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it stays until it is read
    out_of_memory(bytes);
  }
  check(status, "cudaMallocAsync");
  const size_t held = held_bytes_ += bytes;
  if (held > peak_bytes_) peak_bytes_ = held;
  return data;
}

void Context::give_back(void* data, size_t bytes) noexcept {
  if (!data) return;
  held_bytes_ -= bytes;
  const std::lock_guard<std::mutex> lock(freeing_);
  if (capturing_) {
    freed_.push_back(data);
  } else {
    cudaFreeAsync(data, stream_);
  }
}

bool Context::begin_capture() {
  const std::lock_guard<std::mutex> lock(freeing_);
  capturing_ =
      cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
  if (!capturing_) cudaGetLastError();
  return capturing_;
}

cudaGraph_t Context::end_capture() {
  const std::lock_guard<std::mutex> lock(freeing_);
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream_, &graph) != cudaSuccess) {
    graph = nullptr;
    cudaGetLastError();
  }
  capturing_ = false;
  for (void* data : freed_) cudaFreeAsync(data, stream_);
  freed_.clear();
  return graph;
}

Buffer Context::allocate(size_t bytes) {
  repeats_->refuse();
  return {take(bytes), bytes, [context = shared_from_this()](void* p, size_t size) {
            cudaSetDevice(context->device_);
            context->give_back(p, size);
          }};
}

void Context::upload(void* to, const void* host, size_t bytes) {
  repeats_->refuse();
  copy_in(to, host, bytes);
}

void Context::copy_in(void* to, const void* host, size_t bytes) {
  // Through pinned memory: the copy runs while the next part is being written.
  const char* from = static_cast<const char*>(host);
  for (size_t done = 0; done < bytes;) {
    const size_t n = std::min(bytes - done, kUploadBytes);
    const size_t at = reserve(n);
    std::memcpy(staging_.host + at, from + done, n);
    check(cudaMemcpyAsync(static_cast<char*>(to) + done, staging_.host + at, n,
                          cudaMemcpyHostToDevice, stream_),
          "upload");
    done += n;
  }
}

void Context::download(void* host, const void* from, size_t bytes) {
  if (bytes == 0) return;
  repeats_->refuse();
  check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_), "download");
  synchronize();
}

void Context::synchronize() {
  repeats_->refuse();
  check(cudaStreamSynchronize(stream_), "synchronize");
}

const void* Context::stage(const void* host, size_t bytes) {
  if (bytes == 0) return nullptr;
  if (repeats_->active()) return repeats_->stage(host, bytes);
  return stage_in_turn(host, bytes);
}

const void* Context::stage_in_turn(const void* host, size_t bytes) {
  const size_t at = reserve(bytes);
  std::memcpy(staging_.host + at, host, bytes);
  check(cudaMemcpyAsync(staging_.device + at, staging_.host + at, bytes,
                        cudaMemcpyHostToDevice, stream_),
        "stage");
  return staging_.device + at;
}

size_t Context::reserve(size_t bytes) {
  const size_t size = rounded(bytes);
  if (size > staging_.half_bytes / kArraysOfAnOperation) {
    grow(size * kArraysOfAnOperation);
  }
  if (half_used_ + size > staging_.half_bytes) {
    // On to the other half, once what was copied from there has left it. The device's
    // side needs no wait: its copies and readers run in one order.
    check(cudaEventRecord(halves_[half_].copied, stream_), "cudaEventRecord");
    halves_[half_].pending = true;
    half_ = 1 - half_;
    half_used_ = 0;
    Half& next = halves_[half_];
    if (next.pending) check(cudaEventSynchronize(next.copied), "cudaEventSynchronize");
    next.pending = false;
  }
  const size_t place = size_t(half_) * staging_.half_bytes + half_used_;
  half_used_ += size;
  return place;
}

void Context::grow(size_t bytes) {
  Staging next;
  next.half_bytes = rounded(std::max(bytes, 2 * staging_.half_bytes));
  check(cudaMallocHost(reinterpret_cast<void**>(&next.host), 2 * next.half_bytes),
        "cudaMallocHost");
  try {
    next.device = static_cast<char*>(take(2 * next.half_bytes));
  } catch (...) {
    cudaFreeHost(next.host);
    throw;
  }
  if (staging_.host) outgrown_.push_back(staging_);
  staging_ = next;
  half_ = 0;
  half_used_ = 0;
  for (Half& half : halves_) half.pending = false;
}

void* Context::scratch(size_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_;
  repeats_->grow();
  give_back(scratch_, scratch_bytes_);
  scratch_ = nullptr;
  scratch_bytes_ = 0;
  scratch_ = take(bytes);
  scratch_bytes_ = bytes;
  return scratch_;
}

DeviceMemory Context::memory() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {total, total - free, held_bytes_, peak_bytes_};
}

}  // namespace s2ft::cuda
