// Devices of several ranks that sum among themselves, without the host's memory (NCCL).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace s2ft {

class DeviceGroup {
 public:
  virtual ~DeviceGroup() = default;
  /// values = their sums over all ranks, in the device's memory, after what the backend
  /// was asked for before; returns when that is done. While it waits it calls `check`,
  /// which throws when a rank has been lost: the group can then not be used any more.
  /// Throws DEVICE_UNAVAILABLE.
  virtual void sum(float* values, size_t count, const std::function<void()>& check) = 0;
};

/// What makes such groups. A backend that can inherits from this, too.
class DeviceGroups {
 public:
  virtual ~DeviceGroups() = default;
  /// Whether the library that groups need is there.
  virtual bool available() = 0;
  /// The name of a new group, which one rank makes and tells the others. Throws
  /// DEVICE_UNAVAILABLE, as join(), which all ranks call at the same time.
  virtual std::string name() = 0;
  virtual std::unique_ptr<DeviceGroup> join(const std::string& name, int rank,
                                            int size) = 0;
};

}  // namespace s2ft
