// Sums over the GPUs of several ranks by NCCL, which is opened when a group is joined.
#pragma once

#include "backend/device_group.h"
#include "cuda/context.h"

namespace s2ft::cuda {

class NcclGroups : public DeviceGroups {
 public:
  /// The context outlives groups.
  explicit NcclGroups(Context& context) : context_(context) {}
  bool available() override;
  std::string name() override;
  std::unique_ptr<DeviceGroup> join(const std::string& name, int rank, int size) override;

 private:
  Context& context_;
};

}  // namespace s2ft::cuda
