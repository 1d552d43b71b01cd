// Ranks started by an MPI launcher (mpirun, srun). MPI is opened here at run time,
// through libs2ft_mpi.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "distributed/communicator.h"
#include "distributed/host.h"

namespace s2ft {

/// The job that this process is a rank of.
class Job : public Communicator {
 public:
  /// What the launcher's MPI is, for people.
  virtual std::string library() const = 0;
  virtual const HostShare& host() const = 0;

  /// This rank has done what a failed job still needed of it (see wait_done).
  virtual void done() noexcept = 0;
  /// Waits until that rank has said done(), failed or gone, but not longer than the
  /// timeout.
  virtual void wait_done(int rank) noexcept = 0;
  /// Ends the processes of all ranks; from any thread.
  virtual void abort(int status) noexcept = 0;
  /// The orderly end, which all ranks reach; nothing may follow. Throws RankFailed.
  virtual void finish() = 0;

  /// From another thread: breaks off whatever waits.
  std::atomic<bool> leaving{false};
};

/// Starts MPI: once a process. `folder` holds libs2ft_mpi. A rank that others wait for
/// longer than `timeout` seconds counts as lost. Throws UNSUPPORTED where the library is
/// missing or MPI cannot start, and says what to install.
std::shared_ptr<Job> start_mpi(const std::string& folder, double timeout);

}  // namespace s2ft
