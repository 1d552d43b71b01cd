// What of CUDA is on this machine, and the library's one entry.
#include <string>

#include "cuda/attention.h"
#include "cuda/backend.h"
#include "cuda/cudnn_attention.h"
#include "cuda/products.h"

namespace s2ft::cuda {

namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Why the runtime finds no device, and what to do.
std::string problem_of(cudaError_t status, const CudaDescription& d) {
  const std::string code = " (CUDA error " + std::to_string(int(status)) + ", " +
                           cudaGetErrorName(status) + ")";
  const std::string needed =
      "install an NVIDIA driver for CUDA " + std::to_string(CUDART_VERSION / 1000) +
      " (Debian: apt-get install nvidia-driver; others: https://www.nvidia.com/drivers)";
  if (status == cudaErrorInsufficientDriver && d.driver == 0)
    return "no NVIDIA driver was found" + code + ": " + needed;
  if (status == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is for CUDA " + version_text(d.driver) +
           ", and this build needs " + version_text(d.runtime) + code + ": " + needed;
  }
  if (status == cudaErrorNoDevice) {
    return "the driver finds no CUDA device" + code +
           ": check nvidia-smi, CUDA_VISIBLE_DEVICES and, in a container, --gpus";
  }
  return std::string("the CUDA runtime answered: ") + cudaGetErrorString(status) + code;
}

CudaPiece piece(const char* name, const SharedLibrary& library, const char* purpose,
                const char* remedy) {
  return {name, library.path, purpose, remedy, library.tried};
}

std::vector<CudaPiece> pieces() {
  const std::string major = cuda_major();
  static const SharedLibrary nccl = open_library("libnccl.so.2", "nccl");
  return {
      piece("cuBLASLt", cublaslt_library(),
            "matrix products; without it a plain kernel computes them, many times "
            "slower",
            "pip install nvidia-cublas, or the CUDA toolkit"),
      piece("cuDNN", cudnn_library(),
            "attention of equally long sequences where S2FT_CUDA_ATTENTION=cudnn; else, "
            "and without it, own kernels compute it",
            "pip install nvidia-cudnn-cu13, or cuDNN 9 from NVIDIA"),
      piece("NCCL", nccl,
            "sums over several GPUs; without it they travel through host memory",
            "pip install nvidia-nccl-cu13, or libnccl2")};
}

// Products and attention exist for these.
constexpr int kLeastCapability = 80;

}  // namespace

CudaDescription describe() {
  CudaDescription d;
  cudaDriverGetVersion(&d.driver);
  cudaRuntimeGetVersion(&d.runtime);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    d.problem = problem_of(status, d);
  }
  for (int i = 0; status == cudaSuccess && i < count; ++i) {
    cudaDeviceProp p{};
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) break;
    CudaDevice device;
    device.name = p.name;
    device.major = p.major;
    device.minor = p.minor;
    device.multiprocessors = p.multiProcessorCount;
    device.total_bytes = p.totalGlobalMem;
    size_t total = 0;
    if (cudaSetDevice(i) == cudaSuccess) cudaMemGetInfo(&device.free_bytes, &total);
    d.devices.push_back(std::move(device));
  }
  if (d.problem.empty() && d.devices.empty())
    d.problem = problem_of(cudaErrorNoDevice, d);
  if (d.problem.empty()) {
    cudaSetDevice(0);
    const CudaDevice& first = d.devices[0];
    if (10 * first.major + first.minor < kLeastCapability) {
      d.problem = first.name + " has compute capability " + std::to_string(first.major) +
                  "." + std::to_string(first.minor) + ", expected 8.0 or more";
    }
  }
  d.pieces = pieces();
  return d;
}

}  // namespace s2ft::cuda

#ifndef S2FT_CUDA_EMULATION
extern "C" __attribute__((visibility("default"))) const s2ft::CudaLibrary*
s2ft_cuda_library() {
  static const s2ft::CudaLibrary library{S2FT_BACKEND_INTERFACE, s2ft::cuda::describe,
                                         s2ft::cuda::make_backend};
  return &library;
}
#endif
