// The first singular vectors of a matrix, by subspace iteration.
#pragma once

#include "backend/backend.h"
#include "core/rng.h"

namespace s2ft {

/// vectors [k, r] = the first r left (k = rows of g) or right (k = cols) singular vectors
/// of g, f32, largest first; a vector's largest component is positive. Block power
/// iteration from `rng` with eight vectors more than asked for, then a Rayleigh-Ritz
/// step; exact up to f32 where r + 8 >= k. Takes and gives back temporary memory of the
/// size of the vectors.
void singular_vectors(Backend& backend, Mat vectors, Mat g, bool left, Rng rng);

}  // namespace s2ft
