// What the emulated device says of itself, and its errors.
#include "cuda/emulation/device.h"

#include <cstdio>
#include <cstdlib>

#include "cuda/emulation/block.h"

namespace s2ft::cuda::emulation {

namespace {

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

int device_count() {
  const char* given = std::getenv("S2FT_EMULATION_DEVICES");
  return given ? std::atoi(given) : 1;
}

}  // namespace

cudaError_t report(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

}  // namespace s2ft::cuda::emulation

using namespace s2ft::cuda::emulation;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return *count ? cudaSuccess : report(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = int(kThreadsLimit);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = int(kSharedDefault);
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = int(kWarp);
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = 4;  // few, so that loops over what does not fit at once are taken
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 8;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = int(kSharedLimit) + 1024;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = int(kSharedLimit);
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 1 << 20;
      return cudaSuccess;
    case cudaDevAttrClockRate:
      *value = 1000000;
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
  }
  return report(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device < 0 || device >= device_count()) return report(cudaErrorInvalidDevice);
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated device %d", device);
  size_t free;
  cudaMemGetInfo(&free, &p->totalGlobalMem);
  p->sharedMemPerBlock = kSharedDefault;
  p->sharedMemPerBlockOptin = kSharedLimit;
  p->sharedMemPerMultiprocessor = kSharedLimit + 1024;
  p->warpSize = int(kWarp);
  p->maxThreadsPerBlock = int(kThreadsLimit);
  p->multiProcessorCount = 4;
  p->major = 8;
  p->maxThreadsPerMultiProcessor = 2048;
  p->l2CacheSize = 1 << 20;
  p->memoryBusWidth = 512;
  p->pciBusID = device + 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t status = last_error;
  last_error = cudaSuccess;
  return status;
}
cudaError_t cudaPeekAtLastError() {
  return last_error;
}

#define S2FT_ERRORS(X)                                                        \
  X(cudaSuccess, "no error")                                                  \
  X(cudaErrorInvalidValue, "invalid argument")                                \
  X(cudaErrorMemoryAllocation, "out of memory")                               \
  X(cudaErrorInitializationError, "initialization error")                     \
  X(cudaErrorInvalidConfiguration, "invalid configuration argument")          \
  X(cudaErrorInsufficientDriver,                                              \
    "CUDA driver version is insufficient for CUDA runtime version")           \
  X(cudaErrorNoDevice, "no CUDA-capable device is detected")                  \
  X(cudaErrorInvalidDevice, "invalid device ordinal")                         \
  X(cudaErrorNotReady, "device not ready")                                    \
  X(cudaErrorIllegalAddress, "an illegal memory access was encountered")      \
  X(cudaErrorLaunchOutOfResources, "too many resources requested for launch") \
  X(cudaErrorLaunchFailure, "unspecified launch failure")                     \
  X(cudaErrorNotSupported, "operation not supported")                         \
  X(cudaErrorStreamCaptureUnsupported,                                        \
    "operation not permitted when stream is capturing")                       \
  X(cudaErrorStreamCaptureInvalidated,                                        \
    "operation failed due to a previous error during capture")

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define S2FT_NAME(code, text) \
  case code:                  \
    return #code;
    S2FT_ERRORS(S2FT_NAME)
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define S2FT_TEXT(code, text) \
  case code:                  \
    return text;
    S2FT_ERRORS(S2FT_TEXT)
  }
  return "unrecognized error code";
}
