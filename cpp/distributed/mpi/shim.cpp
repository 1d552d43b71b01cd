// The functions of shim.h over whatever MPI this was compiled with. Owns a duplicate of
// MPI_COMM_WORLD, so that its messages meet nobody else's.
#include "distributed/mpi/shim.h"

#include <mpi.h>

#include <cstdio>

namespace {

MPI_Comm job = MPI_COMM_NULL;

struct Request {
  MPI_Request request = MPI_REQUEST_NULL;
};

int report(int error, char* text, size_t length) {
  if (error == MPI_SUCCESS) return 0;
  char found[MPI_MAX_ERROR_STRING] = "";
  int n = 0;
  MPI_Error_string(error, found, &n);
  std::snprintf(text, length, "%s", found);
  return error;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int s2ft_mpi_version() {
  return S2FT_MPI_VERSION;
}

EXPORT int s2ft_mpi_start(int* rank, int* size, char* text, size_t length) {
  int started = 0, provided = 0;
  MPI_Initialized(&started);
  if (started) {
    std::snprintf(text, length, "MPI was initialised already in this process");
    return -1;
  }
  // Calls come from several threads, never from two at a time.
  if (int e = report(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided),
                     text, length))
    return e;
  if (provided < MPI_THREAD_SERIALIZED) {
    std::snprintf(text, length, "this MPI serves one thread only");
    return -1;
  }
  if (int e = report(MPI_Comm_dup(MPI_COMM_WORLD, &job), text, length)) return e;
  MPI_Comm_set_errhandler(job, MPI_ERRORS_RETURN);
  MPI_Comm_rank(job, rank);
  MPI_Comm_size(job, size);
  char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int n = 0;
  MPI_Get_library_version(library, &n);
  std::snprintf(text, length, "%s", library);
  return 0;
}

EXPORT int s2ft_mpi_send(int peer, int tag, const void* data, size_t bytes,
                         void** request, char* text, size_t length) {
  auto* r = new Request;
  const int error = MPI_Isend(data, int(bytes), MPI_BYTE, peer, tag, job, &r->request);
  if (error != MPI_SUCCESS) {
    delete r;
    r = nullptr;
  }
  *request = r;
  return report(error, text, length);
}

EXPORT int s2ft_mpi_receive(int peer, int tag, void* data, size_t bytes, void** request,
                            char* text, size_t length) {
  auto* r = new Request;
  const int error = MPI_Irecv(data, int(bytes), MPI_BYTE, peer, tag, job, &r->request);
  if (error != MPI_SUCCESS) {
    delete r;
    r = nullptr;
  }
  *request = r;
  return report(error, text, length);
}

EXPORT int s2ft_mpi_test(void* request, int* done, char* text, size_t length) {
  auto* r = static_cast<Request*>(request);
  const int error = MPI_Test(&r->request, done, MPI_STATUS_IGNORE);
  if (error != MPI_SUCCESS || *done) delete r;
  return report(error, text, length);
}

EXPORT void s2ft_mpi_forget(void* request) {
  auto* r = static_cast<Request*>(request);
  if (r->request != MPI_REQUEST_NULL) {
    MPI_Cancel(&r->request);
    MPI_Request_free(&r->request);
  }
  delete r;
}

EXPORT int s2ft_mpi_probe(int tag, int* found, int* peer, size_t* bytes, char* text,
                          size_t length) {
  MPI_Status status;
  const int error = MPI_Iprobe(MPI_ANY_SOURCE, tag, job, found, &status);
  if (error == MPI_SUCCESS && *found) {
    int count = 0;
    MPI_Get_count(&status, MPI_BYTE, &count);
    *peer = status.MPI_SOURCE;
    *bytes = size_t(count);
  }
  return report(error, text, length);
}

EXPORT void s2ft_mpi_abort(int status) {
  MPI_Abort(MPI_COMM_WORLD, status);
}

EXPORT int s2ft_mpi_finish(char* text, size_t length) {
  MPI_Comm_free(&job);
  return report(MPI_Finalize(), text, length);
}
