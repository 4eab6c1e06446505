/* map/users.h - what each user holds of the daemon by attaching: connections and mappings, each of which costs it
 * descriptors and memory. Nobody but root gets more than his part, so that some is left for others.
 *
 * Thread-safety: all but new and free.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

enum users_what { USERS_CONNECTION, USERS_MAPPING };
#define USERS_KINDS 2

struct users;

/* Of each kind so many for a user at most. */
int users_new(const uint64_t most[static USERS_KINDS], struct users **ret);
void users_free(struct users *users); /* all was given back. Takes NULL */

uint64_t users_most(const struct users *users, enum users_what what);
/* One more. -EUSERS: he has so many times what he may have (0: that does not matter); -ENOMEM. */
int users_take(struct users *users, uid_t uid, enum users_what what, unsigned int times);
void users_give(struct users *users, uid_t uid, enum users_what what);
