// The loss head as one operation: logits, softmax and gradient a block of the vocabulary
// at a time. A block of w is read from memory once for both of its products, and neither
// logits nor their gradient outlive the block.
#pragma once

#include "cpu/products.h"

namespace s2ft {

size_t linear_cross_entropy_scratch(int64_t rows, int64_t width, int64_t vocabulary);

/// As Backend::linear_cross_entropy.
void linear_cross_entropy(Products& products, const Kernels& kernels, float* nll, Mat dx,
                          Mat x, Mat w, const int32_t* targets, float gradient_scale,
                          void* scratch);

}  // namespace s2ft
