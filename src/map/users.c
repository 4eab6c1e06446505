/* map/users.c - see users.h. Who has nothing is not in the table. */
#include "map/users.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct user {
	UT_hash_handle hh;
	uid_t uid;
	uint64_t count[USERS_KINDS];
};

struct users {
	uint64_t most[USERS_KINDS]; /* immutable */
	struct lock lock;
	struct user *all; /* under lock: uthash, by uid */
};

int users_new(const uint64_t most[static USERS_KINDS], struct users **ret)
{
	struct users *users = calloc(1, sizeof(*users));

	if (!users)
		return -ENOMEM;
	memcpy(users->most, most, sizeof(users->most));
	lock_init(&users->lock, LOCK_RANK_STATS);
	*ret = users;
	return 0;
}

void users_free(struct users *users)
{
	if (!users)
		return;
	lock_fini(&users->lock);
	free(users);
}

uint64_t users_most(const struct users *users, enum users_what what)
{
	return users->most[what];
}

/* Under lock. NULL: no memory. */
static struct user *add(struct users *users, uid_t uid)
{
	struct user *user = calloc(1, sizeof(*user));

	if (!user)
		return NULL;
	user->uid = uid;
	HASH_ADD(hh, users->all, uid, sizeof(uid), user);
	if (!user->hh.tbl) { /* uthash had no memory */
		free(user);
		return NULL;
	}
	return user;
}

int users_take(struct users *users, uid_t uid, enum users_what what, unsigned int times)
{
	uint64_t most = uid && times ? times * users->most[what] : UINT64_MAX;
	struct user *user;

	LOCK_SCOPE(&users->lock);
	HASH_FIND(hh, users->all, &uid, sizeof(uid), user);
	if ((user ? user->count[what] : 0) >= most)
		return -EUSERS;
	if (!user)
		user = add(users, uid);
	if (!user)
		return -ENOMEM;
	user->count[what]++;
	return 0;
}

void users_give(struct users *users, uid_t uid, enum users_what what)
{
	struct user *user;

	LOCK_SCOPE(&users->lock);
	HASH_FIND(hh, users->all, &uid, sizeof(uid), user);
	if (!user || !user->count[what])
		return;
	user->count[what]--;
	for (size_t i = 0; i < USERS_KINDS; i++)
		if (user->count[i])
			return;
	HASH_DEL(users->all, user);
	free(user);
}
