// Graphs of cuDNN's operations: built once for a shape, run often. Whoever makes
// descriptors of the library owns them, a graph until it becomes a plan.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/cudnn.h"

namespace s2ft::cuda::dnn {

/// For whom plans are made.
struct Device {
  Handle handle = nullptr;
  /// In place of a handle: a device that is described, not present. Plans can be made for
  /// it and not be run.
  Descriptor properties = nullptr;
};

/// Four dimensions and the distance of neighbours in each, in elements.
struct Layout {
  int64_t dims[4];
  int64_t strides[4];
  static Layout packed(int64_t a, int64_t b, int64_t c, int64_t d) {
    return {{a, b, c, d}, {b * c * d, c * d, d, 1}};
  }
  /// The last two dimensions in each other's place.
  Layout transposed() const {
    return {{dims[0], dims[1], dims[3], dims[2]},
            {strides[0], strides[1], strides[3], strides[2]}};
  }
};

/// What a plan's tensors are bound to when it runs.
struct Binding {
  int64_t id;
  const void* data;
};

class ExecutionPlan {
 public:
  /// Owns the descriptors, of which `plan` is one.
  ExecutionPlan(const Api& api, Descriptor plan, size_t workspace_bytes,
                std::vector<Descriptor> owned)
      : api_(api),
        plan_(plan),
        workspace_bytes_(workspace_bytes),
        owned_(std::move(owned)) {}
  ExecutionPlan(const ExecutionPlan&) = delete;
  ~ExecutionPlan();

  size_t workspace_bytes() const { return workspace_bytes_; }
  /// Queues the plan on the handle's stream. Throws DEVICE_UNAVAILABLE.
  void run(Handle handle, const std::vector<Binding>& bindings, void* workspace) const;

 private:
  const Api api_;
  Descriptor plan_;
  size_t workspace_bytes_;
  std::vector<Descriptor> owned_;
};

class Graph {
 public:
  using Tensor = Descriptor;

  explicit Graph(const Api& api) : api_(api) {}
  Graph(const Graph&) = delete;
  ~Graph();

  /// A tensor in memory, bound by its id when the plan runs.
  Tensor bound(int64_t id, DataType type, const Layout& layout);
  /// One number, bound to host memory.
  Tensor number(int64_t id);
  /// A tensor between two operations, which may never be in memory.
  Tensor between(DataType type, const Layout& layout);

  void pointwise(Pointwise mode, Tensor y, Tensor x, Tensor b = nullptr,
                 Tensor t = nullptr, DataType precision = kFloat);
  /// y: each element's place along `axis`.
  void index(Tensor y, Tensor x, int64_t axis);
  void matmul(Tensor c, Tensor a, Tensor b);
  /// Each element of y is of as many neighbours in x as y has fewer of, in each
  /// dimension.
  void reduce(Reduction how, Tensor y, Tensor x);
  /// y: the memory of x by other dimensions and strides.
  void reshape(Tensor y, Tensor x);

  /// The first plan of the library's that works here; null where it has none. The graph
  /// is empty afterwards.
  std::unique_ptr<ExecutionPlan> plan(const Device& device);

 private:
  Descriptor make(Kind kind);
  void set(Descriptor descriptor, Attribute attribute, Type type, const void* values,
           int64_t count = 1);
  void finish(Descriptor descriptor);
  using Link = std::pair<Attribute, Descriptor>;
  /// An operation of these; what is null is left out.
  void add(Kind kind, std::initializer_list<Link> links);
  void add_pointwise(Pointwise mode, DataType precision, const int64_t* axis, Tensor y,
                     Tensor x, Tensor b, Tensor t);
  bool finish_plan(Descriptor plan, Descriptor configuration, const Device& device);
  Tensor tensor(int64_t id, DataType type, const Layout& layout, bool is_virtual,
                bool by_value);

  const Api& api_;
  std::vector<Descriptor> owned_, operations_;
  int64_t next_id_ = 1000;
};

}  // namespace s2ft::cuda::dnn
