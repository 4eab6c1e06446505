/* qmp.h - a conversation with a QEMU over its QMP socket. Belongs to one thread. 0 or -errno, and why for a person. */
#pragma once

#include <jansson.h>

#define QMP_WHY_LEN 256

struct qmp;

/* Connects to a Unix socket and leaves negotiation mode. */
int qmp_open(const char *path, struct qmp **ret, char why[static QMP_WHY_LEN]);
void qmp_close(struct qmp *qmp); /* takes NULL */
/* Runs a command with arguments (taken over; NULL: none). *ret: a new reference, may be NULL. -EREMOTEIO: QEMU refuses.
 */
int qmp_run(struct qmp *qmp, const char *command, json_t *arguments, json_t **ret, char why[static QMP_WHY_LEN]);
