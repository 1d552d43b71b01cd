// Copies and fills of the emulated runtime: what they touch is checked when they are
// asked for, as CUDA does, and they run in their stream's order.
#include <memory>
#include <vector>

#include "cuda/emulation/block.h"
#include "cuda/emulation/device.h"

using namespace s2ft::cuda::emulation;

namespace {

/// Checks the side of a copy that `is_device` says is device memory.
void check_side(const void* at, size_t bytes, bool is_device, const char* what) {
  if (!bytes) return;
  const Range range = device_allocation(at);
  if (is_device != (range.begin != nullptr)) {
    if (is_device && in_device_arena(at)) {
      violation("%s of %zu bytes at %p: outside of every allocation, or freed", what,
                bytes, at);
    }
    // Any side may be pinned memory of the host, which devices reach.
    if (is_device && pinned_allocation(at).begin) return;
    violation("%s of %zu bytes at %p: expected %s memory, found %s memory", what, bytes,
              at, is_device ? "device" : "host", is_device ? "host" : "device");
  }
  if (is_device && !range.contains(at, bytes)) {
    violation("%s of %zu bytes at %p: the allocation ends after %zu bytes", what, bytes,
              at, range.bytes - size_t(static_cast<const char*>(at) - range.begin));
  }
}

cudaMemcpyKind find_kind(const void* to, const void* from, cudaMemcpyKind kind) {
  if (kind != cudaMemcpyDefault) return kind;
  return cudaMemcpyKind((in_device_arena(to) ? 1 : 0) + (in_device_arena(from) ? 2 : 0));
}

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  cudaStreamIsCapturing(stream, &status);
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from,
                              size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  if (!width || !height) return cudaSuccess;
  if (width > to_pitch || width > from_pitch) return report(cudaErrorInvalidValue);
  kind = find_kind(to, from, kind);
  const bool to_device =
      kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device =
      kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  check_side(to, (height - 1) * to_pitch + width, to_device, "copy to");
  check_side(from, (height - 1) * from_pitch + width, from_device, "copy from");
  // From ordinary memory CUDA takes the bytes before it returns; from pinned memory it
  // reads them when the copy's turn comes.
  std::shared_ptr<std::vector<char>> taken;
  if (!from_device && !pinned_allocation(from).begin && !capturing(stream)) {
    const char* first = static_cast<const char*>(from);
    taken = std::make_shared<std::vector<char>>(
        first, first + (height - 1) * from_pitch + width);
  }
  const cudaError_t status = enqueue(stream, [=] {
    const char* source = taken ? taken->data() : static_cast<const char*>(from);
    for (size_t row = 0; row < height; ++row) {
      std::memmove(static_cast<char*>(to) + row * to_pitch, source + row * from_pitch,
                   width);
    }
  });
  if (status != cudaSuccess) return status;
  // To ordinary memory it returns when the bytes are there.
  if (from_device && !to_device && !pinned_allocation(to).begin) {
    return cudaStreamSynchronize(stream);
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return status == cudaSuccess ? cudaStreamSynchronize(nullptr) : status;
}

cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width,
                              size_t height, cudaStream_t stream) {
  if (!width || !height) return cudaSuccess;
  if (width > pitch) return report(cudaErrorInvalidValue);
  check_side(to, (height - 1) * pitch + width, true, "fill");
  return enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memset(static_cast<char*>(to) + row * pitch, value, width);
    }
  });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(to, bytes, value, bytes, 1, stream);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
