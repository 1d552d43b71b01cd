// cuDNN's graph interface as the documentation tells it, in plain loops: what graphs of
// attention mean, checked without the library and without a device.
#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "core/dtype.h"
#include "cuda/cudnn.h"

namespace s2ft::test {

namespace dnn = cuda::dnn;

/// A descriptor: its attributes' values as they were given.
struct DnnObject {
  int kind = 0;
  bool finished = false;
  std::map<int, std::vector<char>> attributes;

  template <class T>
  std::vector<T> all(int attribute) const {
    const auto found = attributes.find(attribute);
    if (found == attributes.end()) return {};
    std::vector<T> values(found->second.size() / sizeof(T));
    std::memcpy(values.data(), found->second.data(), found->second.size());
    return values;
  }
  template <class T>
  T one(int attribute) const {
    const std::vector<T> values = all<T>(attribute);
    return values.empty() ? T{} : values[0];
  }
  DnnObject* object(int attribute) const {
    return static_cast<DnnObject*>(one<void*>(attribute));
  }
};

/// A tensor while a graph runs. What is virtual lies in memory of its own, by its
/// strides.
class DnnTensor {
 public:
  DnnTensor(const DnnObject& o, const void* bound)
      : dims(o.all<int64_t>(dnn::kTensorDimensions)),
        strides_(o.all<int64_t>(dnn::kTensorStrides)),
        type_(o.one<int>(dnn::kTensorType)) {
    if (bound) {
      data_ = const_cast<void*>(bound);
      return;
    }
    int64_t count = 1;
    for (size_t i = 0; i < dims.size(); ++i) count += (dims[i] - 1) * strides_[i];
    own_.resize(size_t(count), NAN);
  }

  std::vector<int64_t> dims;

  /// Dimensions of one element hold for all places.
  float get(const int64_t* at) const { return read(offset(at)); }
  void set(const int64_t* at, float value) { write(offset(at), value); }
  float read(int64_t i) const {
    if (!own_.empty()) return own_[size_t(i)];
    if (type_ == dnn::kBfloat16) return to_float(static_cast<bf16*>(data_)[i]);
    return static_cast<float*>(data_)[i];
  }
  void write(int64_t i, float value) {
    if (type_ == dnn::kBfloat16) value = to_float(to_bf16(value));
    if (!own_.empty()) {
      own_[size_t(i)] = value;
    } else if (type_ == dnn::kBfloat16) {
      static_cast<bf16*>(data_)[i] = to_bf16(value);
    } else {
      static_cast<float*>(data_)[i] = value;
    }
  }
  int64_t offset(const int64_t* at) const {
    int64_t i = 0;
    for (size_t d = 0; d < dims.size(); ++d)
      i += (dims[d] == 1 ? 0 : at[d]) * strides_[d];
    return i;
  }

 private:
  std::vector<int64_t> strides_;
  int type_;
  void* data_ = nullptr;
  std::vector<float> own_;
};

/// Runs the operations of one graph in their order.
class DnnInterpreter {
 public:
  explicit DnnInterpreter(const DnnObject& pack) {
    const auto ids = pack.all<int64_t>(dnn::kPackIds);
    const auto pointers = pack.all<const void*>(dnn::kPackPointers);
    for (size_t i = 0; i < ids.size(); ++i) bound_[ids[i]] = pointers[i];
  }

  /// False for what no documentation allows.
  bool run(const DnnObject& graph) {
    for (void* operation : graph.all<void*>(dnn::kGraphOperations))
      if (!run_one(*static_cast<DnnObject*>(operation))) return false;
    return true;
  }

 private:
  DnnTensor* tensor(const DnnObject* o) {
    if (!o) return nullptr;
    const auto known = tensors_.find(o);
    if (known != tensors_.end()) return &known->second;
    const bool is_virtual = o->one<char>(dnn::kTensorVirtual) != 0;
    const auto found = bound_.find(o->one<int64_t>(dnn::kTensorId));
    if (is_virtual == (found != bound_.end())) return nullptr;
    const void* at = is_virtual ? nullptr : found->second;
    return &tensors_.emplace(o, DnnTensor(*o, at)).first->second;
  }

  template <class F>
  static void each(const std::vector<int64_t>& dims, F body) {
    int64_t at[4];
    for (at[0] = 0; at[0] < dims[0]; ++at[0])
      for (at[1] = 0; at[1] < dims[1]; ++at[1])
        for (at[2] = 0; at[2] < dims[2]; ++at[2])
          for (at[3] = 0; at[3] < dims[3]; ++at[3]) body(at);
  }

  bool run_one(const DnnObject& o) {
    switch (o.kind) {
      case dnn::kPointwiseOperation:
        return pointwise(
            *o.object(dnn::kPointwiseDescriptor), tensor(o.object(dnn::kPointwiseY)),
            tensor(o.object(dnn::kPointwiseX)), tensor(o.object(dnn::kPointwiseB)),
            tensor(o.object(dnn::kPointwiseT)));
      case dnn::kMatmulOperation:
        return matmul(tensor(o.object(dnn::kMatmulC)), tensor(o.object(dnn::kMatmulA)),
                      tensor(o.object(dnn::kMatmulB)));
      case dnn::kReductionOperation:
        return reduce(
            o.object(dnn::kReductionDescriptor)->one<int>(dnn::kReductionOperator),
            tensor(o.object(dnn::kReductionY)), tensor(o.object(dnn::kReductionX)));
      case dnn::kReshapeOperation:
        return reshape(tensor(o.object(dnn::kReshapeY)),
                       tensor(o.object(dnn::kReshapeX)));
    }
    return false;
  }

  static bool pointwise(const DnnObject& how, DnnTensor* y, DnnTensor* x, DnnTensor* b,
                        DnnTensor* t) {
    if (!x || !y) return false;
    const int mode = how.one<int>(dnn::kPointwiseMode);
    const bool unary = mode == dnn::kExp || mode == dnn::kLog || mode == dnn::kIndex ||
                       mode == dnn::kIdentity;
    if (unary == bool(b) || (mode == dnn::kSelect) != bool(t)) return false;
    const auto axis = size_t(how.one<int64_t>(dnn::kPointwiseAxis));
    each(y->dims, [&](const int64_t* at) {
      const float u = x->get(at), v = b ? b->get(at) : 0;
      switch (mode) {
        case dnn::kAdd:
          return y->set(at, u + v);
        case dnn::kSub:
          return y->set(at, u - v);
        case dnn::kMul:
          return y->set(at, u * v);
        case dnn::kDiv:
          return y->set(at, u / v);
        case dnn::kExp:
          return y->set(at, std::exp(u));
        case dnn::kLog:
          return y->set(at, std::log(u));
        case dnn::kIdentity:
          return y->set(at, u);
        case dnn::kGreaterOrEqual:
          return y->set(at, u >= v);
        case dnn::kIndex:
          return y->set(at, float(at[axis]));
        case dnn::kSelect:
          return y->set(at, t->get(at) != 0 ? u : v);
      }
    });
    return true;
  }

  /// Fewer heads of a or b serve groups of c's.
  static bool matmul(DnnTensor* c, DnnTensor* a, DnnTensor* b) {
    if (!a || !b || !c || a->dims[3] != b->dims[2] || c->dims[2] != a->dims[2] ||
        c->dims[3] != b->dims[3])
      return false;
    each(c->dims, [&](const int64_t* at) {
      int64_t from_a[4] = {at[0], at[1] * a->dims[1] / c->dims[1], at[2], 0};
      int64_t from_b[4] = {at[0], at[1] * b->dims[1] / c->dims[1], 0, at[3]};
      double sum = 0;
      for (int64_t k = 0; k < a->dims[3]; ++k) {
        from_a[3] = from_b[2] = k;
        sum += double(a->get(from_a)) * double(b->get(from_b));
      }
      c->set(at, float(sum));
    });
    return true;
  }

  /// Every element of y is of as many neighbours of x as y has fewer.
  static bool reduce(int how, DnnTensor* y, DnnTensor* x) {
    if (!x || !y) return false;
    each(y->dims, [&](const int64_t* at) {
      std::vector<int64_t> group;
      for (size_t d = 0; d < 4; ++d) group.push_back(x->dims[d] / y->dims[d]);
      double result = how == dnn::kMax ? -INFINITY : 0;
      each(group, [&](const int64_t* in) {
        int64_t from[4];
        for (size_t d = 0; d < 4; ++d) from[d] = at[d] * group[d] + in[d];
        const double value = x->get(from);
        result = how == dnn::kMax ? std::fmax(result, value) : result + value;
      });
      y->set(at, float(result));
    });
    return true;
  }

  /// The same places in memory under other names.
  static bool reshape(DnnTensor* y, DnnTensor* x) {
    if (!x || !y) return false;
    each(y->dims,
         [&](const int64_t* at) { y->write(y->offset(at), x->read(y->offset(at))); });
    return true;
  }

  std::map<int64_t, const void*> bound_;
  std::map<const DnnObject*, DnnTensor> tensors_;
};

/// The library's functions over all this. Every graph has one plan.
inline dnn::Api interpreted_dnn() {
  static const auto at = [](void* d) { return static_cast<DnnObject*>(d); };
  dnn::Api api{};
  api.create = [](dnn::Handle*) { return 0; };
  api.destroy = [](dnn::Handle) { return 0; };
  api.set_stream = [](dnn::Handle, dnn::Stream) { return 0; };
  api.version = []() -> size_t { return 91000; };
  api.descriptor_create = [](int kind, dnn::Descriptor* d) {
    auto* made = new DnnObject;
    made->kind = kind;
    *d = made;
    return 0;
  };
  api.descriptor_destroy = [](dnn::Descriptor d) {
    delete at(d);
    return 0;
  };
  api.descriptor_finalize = [](dnn::Descriptor d) {
    at(d)->finished = true;
    return 0;
  };
  api.attribute_set = [](dnn::Descriptor d, int attribute, int type, int64_t count,
                         const void* values) {
    if (at(d)->finished) return 1;
    const size_t size = type == dnn::kTypeBoolean ? sizeof(bool)
                        : type == dnn::kTypeInt64 || type == dnn::kTypePointer ||
                                type == dnn::kTypeDescriptor || type == dnn::kTypeHandle
                            ? 8
                            : sizeof(int);
    const char* bytes = static_cast<const char*>(values);
    at(d)->attributes[attribute].assign(bytes, bytes + size_t(count) * size);
    return 0;
  };
  api.attribute_get = [](dnn::Descriptor d, int attribute, int, int64_t, int64_t* found,
                         void* values) {
    *found = 1;
    if (attribute == dnn::kHeuristicsResults) {
      // The one configuration is the graph's.
      at(*static_cast<void**>(values))->attributes[dnn::kHeuristicsGraph] =
          at(d)->attributes[dnn::kHeuristicsGraph];
    } else if (attribute == dnn::kPlanWorkspace) {
      *static_cast<int64_t*>(values) = 0;
    } else {
      return 1;
    }
    return 0;
  };
  api.execute = [](dnn::Handle, dnn::Descriptor plan, dnn::Descriptor pack) {
    const DnnObject* graph =
        at(plan)->object(dnn::kPlanConfig)->object(dnn::kHeuristicsGraph);
    const bool whole = at(plan)->finished && at(pack)->finished && graph->finished;
    return whole && DnnInterpreter(*at(pack)).run(*graph) ? 0 : 1;
  };
  return api;
}

}  // namespace s2ft::test
