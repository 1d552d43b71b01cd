// What tensors of attention's graphs are bound by. The matrices come first: their ids are
// places in DnnShape::distances.
#pragma once

namespace s2ft::cuda {

enum DnnId : int {
  kQ,
  kK,
  kV,
  kO,
  kLse,
  kDo,
  kDq,
  kDk,
  kDv,
  kDelta,
  kScale,
  kOne,
  kLowest
};

}  // namespace s2ft::cuda
