/*
 * What a service manager is told of the program's state: the protocol of sd_notify(3), datagrams to the socket that NOTIFY_SOCKET names.
 * Without that variable nothing is sent. Any thread.
 */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/* Sends lines of NAME=VALUE: "READY=1", "STOPPING=1", "WATCHDOG=1", "RELOADING=1", "STATUS=text". False when there is nobody to tell, or
 * it could not be sent: nothing depends on it. */
bool notify_send(const char *lines);

/* "RELOADING=1" with the time that systemd asks for; "READY=1" ends it. */
bool notify_reloading(void);

/* How often WATCHDOG=1 is due, half of what WATCHDOG_USEC allows; 0 = nobody waits for it. */
int64_t notify_watchdog_ns(void);

#endif
