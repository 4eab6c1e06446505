/* client/client_zap.h - drops page-table entries of attached memory for the daemon's scans.
 *
 * Only memory that is attached at this moment, on this connection: what the program unmapped, or mapped anew, is not
 * touched. Needs the agent's lock, which is what keeps a munmap away.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tierfs/protocol.h>

struct client_conn;

void client_zap(const struct tierfs_range *ranges, size_t count, const struct client_conn *conn);
/* In a child of fork(): the process descriptor is the parent's. */
void client_zap_forget(void);
