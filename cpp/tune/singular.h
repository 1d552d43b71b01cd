// Singular vectors by subspace iteration, and small symmetric matrices on the host.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "core/rng.h"

namespace s2ft {

/// vectors [k, r] = the first r left (k = rows of g) or right (k = cols) singular vectors
/// of g, f32, largest first; a vector's largest component is positive. Block power
/// iteration from `rng` with eight vectors more than asked for, then a Rayleigh-Ritz
/// step; exact up to f32 where r + 8 >= k. Takes and gives back temporary memory of the
/// size of the vectors.
void singular_vectors(Backend& backend, Mat vectors, Mat g, bool left, Rng rng);

/// a^(-1/2) of a symmetric positive definite a [n, n].
std::vector<double> inverse_square_root(const std::vector<double>& a, int64_t n);

}  // namespace s2ft
