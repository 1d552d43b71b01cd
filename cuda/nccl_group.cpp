// Compiled against nccl.h where there is one (pip: nvidia-nccl-cu13); without it there
// are no groups, and gradients of several GPUs travel through host memory.
#include "cuda/nccl_group.h"

#if __has_include(<nccl.h>) && !defined(S2FT_CUDA_EMULATION)
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "core/error.h"
#include "cuda/shared_library.h"

namespace s2ft::cuda {

namespace {

struct Nccl {
  SharedLibrary library = open_library("libnccl.so.2", "nccl");
#define S2FT_NCCL(member, name) \
  decltype(&name) member = library.function<decltype(&name)>(#name)
  S2FT_NCCL(get_unique_id, ncclGetUniqueId);
  S2FT_NCCL(init_rank, ncclCommInitRank);
  S2FT_NCCL(all_reduce, ncclAllReduce);
  S2FT_NCCL(async_error, ncclCommGetAsyncError);
  S2FT_NCCL(abort, ncclCommAbort);
  S2FT_NCCL(text, ncclGetErrorString);
#undef S2FT_NCCL

  explicit operator bool() const {
    return get_unique_id && init_rank && all_reduce && async_error && abort && text;
  }
  void check(ncclResult_t status, const char* where) const {
    if (status == ncclSuccess || status == ncclInProgress) return;
    throw Error("DEVICE_UNAVAILABLE",
                "[nccl] " + std::string(where) + ": " + text(status));
  }
};

const Nccl& nccl() {
  static const Nccl opened;
  return opened;
}

class NcclGroup : public DeviceGroup {
 public:
  NcclGroup(Context& context, const ncclUniqueId& id, int rank, int size)
      : context_(context) {
    cuda::check(cudaSetDevice(context.device()), "cudaSetDevice");
    nccl().check(nccl().init_rank(&communicator_, size, id, rank), "ncclCommInitRank");
  }
  // Others may be gone: nothing here waits for them.
  ~NcclGroup() override {
    if (communicator_) nccl().abort(communicator_);
  }

  void sum(float* values, size_t count, const std::function<void()>& check) override {
    nccl().check(nccl().all_reduce(values, values, count, ncclFloat, ncclSum,
                                   communicator_, context_.stream()),
                 "ncclAllReduce");
    try {
      wait(check);
    } catch (...) {
      // Ends the kernel that waits on the device.
      nccl().abort(communicator_);
      communicator_ = nullptr;
      throw;
    }
  }

 private:
  void wait(const std::function<void()>& check) {
    using Clock = std::chrono::steady_clock;
    Clock::time_point looked = Clock::now();
    for (;;) {
      const cudaError_t status = cudaStreamQuery(context_.stream());
      if (status == cudaSuccess) return;
      if (status != cudaErrorNotReady) cuda::check(status, "cudaStreamQuery");
      ncclResult_t error = ncclSuccess;
      nccl().check(nccl().async_error(communicator_, &error), "ncclCommGetAsyncError");
      nccl().check(error, "ncclAllReduce");
      if (Clock::now() - looked > std::chrono::milliseconds(100)) {
        check();
        looked = Clock::now();
      }
      std::this_thread::yield();
    }
  }

  Context& context_;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace

bool NcclGroups::available() {
  return bool(nccl());
}

std::string NcclGroups::name() {
  ncclUniqueId id;
  nccl().check(nccl().get_unique_id(&id), "ncclGetUniqueId");
  return std::string(id.internal, sizeof id.internal);
}

std::unique_ptr<DeviceGroup> NcclGroups::join(const std::string& name, int rank,
                                              int size) {
  ncclUniqueId id;
  if (name.size() != sizeof id.internal)
    throw Error("INTERNAL", "[nccl] a group's name has an unexpected length");
  std::memcpy(id.internal, name.data(), sizeof id.internal);
  return std::make_unique<NcclGroup>(context_, id, rank, size);
}

}  // namespace s2ft::cuda

#else

namespace s2ft::cuda {

bool NcclGroups::available() {
  return false;
}

std::string NcclGroups::name() {
  return "";
}

std::unique_ptr<DeviceGroup> NcclGroups::join(const std::string&, int, int) {
  return nullptr;
}

}  // namespace s2ft::cuda

#endif
