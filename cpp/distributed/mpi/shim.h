/* What the package needs of MPI, as plain C: built into a library of its own
   (libs2ft_mpi) wherever mpi.h is found, and opened only by a job of several processes,
   because MPI's binary interface differs between implementations. Functions return 0, or
   put an error's text into `text` (of `length` bytes) and return another number. */
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define S2FT_MPI_VERSION 1

int s2ft_mpi_version(void);
/* Initialises MPI; on success `text` names the library. */
int s2ft_mpi_start(int* rank, int* size, char* text, size_t length);
/* Starts a transfer of at most INT_MAX bytes; `tag` is 0 or 1. */
int s2ft_mpi_send(int peer, int tag, const void* data, size_t bytes, void** request,
                  char* text, size_t length);
int s2ft_mpi_receive(int peer, int tag, void* data, size_t bytes, void** request,
                     char* text, size_t length);
/* done = whether it has ended; a request that has, or that failed, is freed. */
int s2ft_mpi_test(void* request, int* done, char* text, size_t length);
/* Gives a transfer up. Its memory may still be read. */
void s2ft_mpi_forget(void* request);
/* Whether a message with this tag waits (found = 1), from whom and how long it is. */
int s2ft_mpi_probe(int tag, int* found, int* peer, size_t* bytes, char* text,
                   size_t length);
/* Ends all processes of the job. */
void s2ft_mpi_abort(int status);
int s2ft_mpi_finish(char* text, size_t length);

#ifdef __cplusplus
}
#endif
