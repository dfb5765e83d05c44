/*
 * A report on stderr when the process is ended by a fault of its own (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT): what it is, where, which
 * thread, its stack, and the ids of the requests that were in flight. Then the signal's default action, with its core file.
 *
 * Frames are shown as FILE(+OFFSET); `addr2line -e FILE OFFSET` names the line.
 */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

#include <signal.h>

/* Installs the handlers; `about` (static) is the program's line: name, version, build. Once, before the first thread. In builds with a
 * sanitizer, which reports better, it does nothing. A thread other than the first one that uses up its stack dies without a report. */
void crash_init(const char *about);

/* Takes the faults' signals out of what a thread is going to block: the fault of a thread that blocks its signal ends the process at once,
 * without a report. Any thread. */
void crash_let_through(sigset_t *blocked);

/* A request is in flight: keeps a copy of its id for the report. Returns a place to be given to crash_leave, or 0 when all places are
 * taken; then the report does not name it. Lock-free, any thread. */
int crash_enter(const char *request_id);
/* It is over. 0 is ignored. */
void crash_leave(int place);

#endif
