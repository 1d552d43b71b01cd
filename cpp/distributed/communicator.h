// Communicator: what the ranks of a job say to one another. An implementation moves
// bytes; sums, gathers and broadcasts are written once above that, so that they give the
// same bits whatever carries them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"

namespace s2ft {

/// RANK_FAILED: another rank failed, was lost or did not answer in time.
struct RankFailed : Error {
  RankFailed(const std::string& message, std::vector<int> which)
      : Error("RANK_FAILED", message), ranks(std::move(which)) {}
  std::vector<int> ranks;  // those that will not come back
};

struct Block {
  void* data;
  size_t bytes;
};
using Blocks = std::vector<Block>;

/// All ranks call the same functions in the same order. Not thread-safe. After a
/// RankFailed every further call throws it again.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Sends send[r] to every other rank r and fills receive[r] with what r sends here,
  /// block by block of the same lengths; what stands at the own rank is not looked at.
  /// Throws RankFailed.
  virtual void exchange(const std::vector<Blocks>& send,
                        const std::vector<Blocks>& receive) = 0;
  /// Tells all others that this rank will not go on: their calls throw RankFailed with
  /// this text. Never throws.
  virtual void fail(const std::string& message) noexcept = 0;
  /// Throws RankFailed if a rank is known to have failed or gone; waits for none.
  virtual void check() = 0;

  /// all [size * bytes] = every rank's `mine`, in the order of ranks.
  void all_gather(void* all, const void* mine, size_t bytes);
  std::vector<std::string> all_gather(const std::string& mine);
  void broadcast(void* data, size_t bytes, int root);
  void barrier();
  /// values = their sums over all ranks, and totals likewise; every rank gets the same
  /// bits. Each rank sums a part, in the order of ranks, and hands it to the others: 2
  /// (size - 1) / size of the values' bytes leave every rank. Scratch is kept.
  void sum(float* values, size_t count, double* totals, size_t total_count);

  /// Host memory of at least so many values, kept until the end: transfers that a failure
  /// breaks off may still read it.
  float* buffer(size_t count);
  /// Bytes of the values that sum() has sent from this rank so far.
  uint64_t bytes_summed() const { return bytes_summed_; }

 private:
  void sum_part(float* values, size_t count, double* totals, size_t total_count);

  std::vector<float> buffer_, scratch_;
  uint64_t bytes_summed_ = 0;
};

}  // namespace s2ft
