// Whether what an adapter says fits a model: modules, shapes, indices.
#pragma once

#include "adapter/deltas.h"

namespace s2ft {

/// The layer of that name. Throws ADAPTER_MISMATCH naming it where there is none; `where`
/// begins the message.
Linear& linear_of(Model& model, const std::string& module, const char* where = "[fuse]");

/// Throws ADAPTER_MISMATCH naming the module for an unknown module, an index out of range
/// or given twice, or a shape that does not fit. LoReFT's layers are not looked at.
void check_deltas(Model& model, const AdapterDeltas& adapter,
                  const char* where = "[fuse]");

}  // namespace s2ft
