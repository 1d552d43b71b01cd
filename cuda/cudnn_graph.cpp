#include "cuda/cudnn_graph.h"

#include "core/error.h"

namespace s2ft::cuda::dnn {

namespace {

// Vectors of 16 bytes are what attention's kernels read.
constexpr int64_t kAlignment = 16;
// Configurations that are asked for at most; the library lists the best ones first.
constexpr int64_t kConfigurations = 8;

void require(Status status, const char* where) {
  if (status == 0) return;
  throw Error("DEVICE_UNAVAILABLE", std::string("[cuda] ") + where +
                                        ": cuDNN answered status " +
                                        std::to_string(status));
}

void destroy(const Api& api, const std::vector<Descriptor>& descriptors) {
  for (auto it = descriptors.rbegin(); it != descriptors.rend(); ++it)
    api.descriptor_destroy(*it);
}

}  // namespace

ExecutionPlan::~ExecutionPlan() {
  destroy(api_, owned_);
}

void ExecutionPlan::run(Handle handle, const std::vector<Binding>& bindings,
                        void* workspace) const {
  std::vector<int64_t> ids;
  std::vector<const void*> pointers;
  for (const Binding& b : bindings) {
    ids.push_back(b.id);
    pointers.push_back(b.data);
  }
  Descriptor pack = nullptr;
  require(api_.descriptor_create(kVariantPack, &pack), "bindings");
  const auto set = [&](Attribute attribute, Type type, const void* values, size_t count) {
    return api_.attribute_set(pack, attribute, type, int64_t(count), values);
  };
  Status status = set(kPackIds, kTypeInt64, ids.data(), ids.size());
  if (status == 0)
    status = set(kPackPointers, kTypePointer, pointers.data(), pointers.size());
  if (status == 0) status = set(kPackWorkspace, kTypePointer, &workspace, 1);
  if (status == 0) status = api_.descriptor_finalize(pack);
  if (status == 0) status = api_.execute(handle, plan_, pack);
  api_.descriptor_destroy(pack);
  require(status, "execute");
}

Graph::~Graph() {
  destroy(api_, owned_);
}

Descriptor Graph::make(Kind kind) {
  Descriptor descriptor = nullptr;
  require(api_.descriptor_create(kind, &descriptor), "descriptor");
  owned_.push_back(descriptor);
  return descriptor;
}

void Graph::set(Descriptor descriptor, Attribute attribute, Type type, const void* values,
                int64_t count) {
  require(api_.attribute_set(descriptor, attribute, type, count, values), "attribute");
}

void Graph::finish(Descriptor descriptor) {
  require(api_.descriptor_finalize(descriptor), "finalize");
}

void Graph::add(Kind kind, std::initializer_list<Link> links) {
  Descriptor operation = make(kind);
  for (const auto& [attribute, linked] : links)
    if (linked) set(operation, attribute, kTypeDescriptor, &linked);
  finish(operation);
  operations_.push_back(operation);
}

Graph::Tensor Graph::tensor(int64_t id, DataType type, const Layout& layout,
                            bool is_virtual, bool by_value) {
  Descriptor t = make(kTensor);
  set(t, kTensorType, kTypeDataType, &type);
  set(t, kTensorDimensions, kTypeInt64, layout.dims, 4);
  set(t, kTensorStrides, kTypeInt64, layout.strides, 4);
  set(t, kTensorId, kTypeInt64, &id);
  set(t, kTensorAlignment, kTypeInt64, &kAlignment);
  if (is_virtual) set(t, kTensorVirtual, kTypeBoolean, &is_virtual);
  if (by_value) set(t, kTensorByValue, kTypeBoolean, &by_value);
  finish(t);
  return t;
}

Graph::Tensor Graph::bound(int64_t id, DataType type, const Layout& layout) {
  return tensor(id, type, layout, false, false);
}

Graph::Tensor Graph::number(int64_t id) {
  return tensor(id, kFloat, Layout::packed(1, 1, 1, 1), false, true);
}

Graph::Tensor Graph::between(DataType type, const Layout& layout) {
  return tensor(next_id_++, type, layout, true, false);
}

void Graph::add_pointwise(Pointwise mode, DataType precision, const int64_t* axis,
                          Tensor y, Tensor x, Tensor b, Tensor t) {
  Descriptor how = make(kPointwise);
  set(how, kPointwiseMode, kTypePointwiseMode, &mode);
  set(how, kPointwisePrecision, kTypeDataType, &precision);
  if (axis) set(how, kPointwiseAxis, kTypeInt64, axis);
  finish(how);
  add(kPointwiseOperation, {{kPointwiseDescriptor, how},
                            {kPointwiseX, x},
                            {kPointwiseB, b},
                            {kPointwiseT, t},
                            {kPointwiseY, y}});
}

void Graph::pointwise(Pointwise mode, Tensor y, Tensor x, Tensor b, Tensor t,
                      DataType precision) {
  add_pointwise(mode, precision, nullptr, y, x, b, t);
}

void Graph::index(Tensor y, Tensor x, int64_t axis) {
  add_pointwise(kIndex, kInt32, &axis, y, x, nullptr, nullptr);
}

void Graph::matmul(Tensor c, Tensor a, Tensor b) {
  const DataType precision = kFloat;
  Descriptor how = make(kMatmul);
  set(how, kMatmulPrecision, kTypeDataType, &precision);
  finish(how);
  add(kMatmulOperation,
      {{kMatmulA, a}, {kMatmulB, b}, {kMatmulC, c}, {kMatmulDescriptor, how}});
}

void Graph::reduce(Reduction reduction, Tensor y, Tensor x) {
  const DataType precision = kFloat;
  Descriptor how = make(kReduction);
  set(how, kReductionOperator, kTypeReductionOperator, &reduction);
  set(how, kReductionPrecision, kTypeDataType, &precision);
  finish(how);
  add(kReductionOperation,
      {{kReductionDescriptor, how}, {kReductionX, x}, {kReductionY, y}});
}

void Graph::reshape(Tensor y, Tensor x) {
  add(kReshapeOperation, {{kReshapeX, x}, {kReshapeY, y}});
}

/// False where the library cannot compute by this configuration.
bool Graph::finish_plan(Descriptor plan, Descriptor configuration, const Device& device) {
  if (device.handle) set(plan, kPlanHandle, kTypeHandle, &device.handle);
  if (device.properties) set(plan, kPlanProperties, kTypeDescriptor, &device.properties);
  set(plan, kPlanConfig, kTypeDescriptor, &configuration);
  return api_.descriptor_finalize(plan) == 0;
}

std::unique_ptr<ExecutionPlan> Graph::plan(const Device& device) {
  Descriptor graph = make(kOperationGraph);
  if (device.handle) set(graph, kGraphHandle, kTypeHandle, &device.handle);
  set(graph, kGraphOperations, kTypeDescriptor, operations_.data(),
      int64_t(operations_.size()));
  finish(graph);
  for (const HeuristicMode mode : {kModeA, kFallback}) {
    Descriptor heuristics = make(kHeuristics);
    set(heuristics, kHeuristicsGraph, kTypeDescriptor, &graph);
    set(heuristics, kHeuristicsMode, kTypeHeuristicMode, &mode);
    if (device.properties)
      set(heuristics, kHeuristicsProperties, kTypeDescriptor, &device.properties);
    if (api_.descriptor_finalize(heuristics) != 0) continue;
    std::vector<Descriptor> found;
    for (int64_t i = 0; i < kConfigurations; ++i) found.push_back(make(kEngineConfig));
    int64_t count = 0;
    if (api_.attribute_get(heuristics, kHeuristicsResults, kTypeDescriptor,
                           kConfigurations, &count, found.data()) != 0)
      continue;
    for (int64_t i = 0; i < count && i < kConfigurations; ++i) {
      Descriptor plan = make(kExecutionPlan);
      if (!finish_plan(plan, found[size_t(i)], device)) continue;
      int64_t bytes = 0, got = 0;
      require(api_.attribute_get(plan, kPlanWorkspace, kTypeInt64, 1, &got, &bytes),
              "workspace");
      operations_.clear();
      return std::make_unique<ExecutionPlan>(api_, plan, size_t(bytes),
                                             std::exchange(owned_, {}));
    }
  }
  return nullptr;
}

}  // namespace s2ft::cuda::dnn
