// The part of cuDNN's C interface (its graph interface) that attention uses, declared
// here so that building needs neither its headers nor the library: it is opened at run
// time. Values are the public, stable ones of cuDNN 9; cudnn_check.cpp compares them.
#pragma once

#include <cstdint>

namespace s2ft::cuda::dnn {

using Handle = void*;
using Descriptor = void*;
using Status = int;  // 0: success
using Stream = void*;

enum Kind : int {
  kPointwise = 0,
  kEngineConfig = 3,
  kHeuristics = 4,
  kExecutionPlan = 5,
  kPointwiseOperation = 13,
  kOperationGraph = 15,
  kVariantPack = 16,
  kTensor = 17,
  kMatmul = 18,
  kMatmulOperation = 19,
  kReduction = 21,
  kReductionOperation = 22,
  kReshapeOperation = 31,
  kDeviceProperties = 38
};

enum Attribute : int {
  kPointwiseMode = 0,
  kPointwisePrecision = 1,
  kPointwiseAxis = 9,
  kHeuristicsMode = 200,
  kHeuristicsGraph = 201,
  kHeuristicsResults = 202,
  kHeuristicsProperties = 204,
  kPlanHandle = 400,
  kPlanConfig = 401,
  kPlanWorkspace = 402,
  kPlanProperties = 407,
  kPointwiseDescriptor = 750,
  kPointwiseX = 751,
  kPointwiseB = 752,
  kPointwiseY = 753,
  kPointwiseT = 758,
  kGraphHandle = 800,
  kGraphOperations = 801,
  kTensorAlignment = 900,
  kTensorType = 901,
  kTensorDimensions = 902,
  kTensorStrides = 903,
  kTensorId = 906,
  kTensorVirtual = 907,
  kTensorByValue = 908,
  kPackIds = 1000,
  kPackPointers = 1001,
  kPackWorkspace = 1003,
  kMatmulPrecision = 1500,
  kMatmulA = 1520,
  kMatmulB = 1521,
  kMatmulC = 1522,
  kMatmulDescriptor = 1523,
  kReductionOperator = 1600,
  kReductionPrecision = 1601,
  kReductionX = 1610,
  kReductionY = 1611,
  kReductionDescriptor = 1612,
  kReshapeX = 2200,
  kReshapeY = 2201,
  kPropertiesJson = 2702
};

enum Type : int {
  kTypeHandle = 0,
  kTypeDataType = 1,
  kTypeBoolean = 2,
  kTypeInt64 = 3,
  kTypePointer = 6,
  kTypeHeuristicMode = 8,
  kTypePointwiseMode = 14,
  kTypeDescriptor = 15,
  kTypeReductionOperator = 18,
  kTypeChar = 24
};

enum DataType : int { kFloat = 0, kInt32 = 4, kBfloat16 = 9, kBoolean = 11 };
enum Pointwise : int {
  kAdd = 0,
  kMul = 1,
  kDiv = 6,
  kSub = 9,
  kExp = 13,
  kLog = 15,
  kIdentity = 21,
  kGreaterOrEqual = 303,
  kIndex = 501,
  kSelect = 601
};
enum Reduction : int { kSum = 0, kMax = 3 };
enum HeuristicMode : int { kFallback = 2, kModeA = 3 };

/// Every function that is used; null where the library was not found.
struct Api {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*set_stream)(Handle, Stream);
  size_t (*version)();
  Status (*descriptor_create)(int kind, Descriptor*);
  Status (*descriptor_destroy)(Descriptor);
  Status (*descriptor_finalize)(Descriptor);
  Status (*attribute_set)(Descriptor, int attribute, int type, int64_t count,
                          const void*);
  Status (*attribute_get)(Descriptor, int attribute, int type, int64_t wanted,
                          int64_t* found, void*);
  Status (*execute)(Handle, Descriptor plan, Descriptor pack);
};

}  // namespace s2ft::cuda::dnn
