/* map/chores.c - see chores.h. A thread that finds nothing to do waits for more, unless there are enough that do. */
#include "map/chores.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/log.h"

#define IDLE_MAX 4

struct hand {
	SLIST_ENTRY(hand) link;
	struct chores *chores;
	pthread_t thread;
};

TAILQ_HEAD(chore_list, chore);
SLIST_HEAD(hand_list, hand);

struct chores {
	int finished; /* eventfd: some are done */
	struct lock lock;
	pthread_cond_t work, ended;
	struct chore_list waiting, done; /* under lock, like all that follows */
	unsigned int waiting_count, under_way, hands, idle;
	struct hand_list gone; /* to be joined */
	bool stopping;
};

/* Under lock, which is dropped meanwhile. */
static void do_one(struct chores *chores, struct chore *chore)
{
	uint64_t one = 1;

	TAILQ_REMOVE(&chores->waiting, chore, link);
	chores->waiting_count--;
	chores->under_way++;
	lock_put(&chores->lock);
	chore->go(chore->arg);
	lock_get(&chores->lock);
	chores->under_way--;
	TAILQ_INSERT_TAIL(&chores->done, chore, link);
	pthread_cond_broadcast(&chores->ended);
	if (write(chores->finished, &one, sizeof(one)) < 0)
		log_debug("the end of a chore was told before");
}

static void *hand_main(void *arg)
{
	struct hand *hand = arg;
	struct chores *chores = hand->chores;

	lock_get(&chores->lock);
	for (;;) {
		struct chore *chore = TAILQ_FIRST(&chores->waiting);

		if (chore) {
			do_one(chores, chore);
			continue;
		}
		if (chores->stopping || chores->idle >= IDLE_MAX)
			break;
		chores->idle++;
		lock_wait(&chores->lock, &chores->work);
		chores->idle--;
	}
	chores->hands--;
	SLIST_INSERT_HEAD(&chores->gone, hand, link);
	pthread_cond_broadcast(&chores->ended);
	lock_put(&chores->lock);
	return NULL;
}

/* Under lock. */
static int raise_hand(struct chores *chores)
{
	struct hand *hand = malloc(sizeof(*hand));
	int err;

	if (!hand)
		return -ENOMEM;
	hand->chores = chores;
	err = -pthread_create(&hand->thread, NULL, hand_main, hand);
	if (err) {
		free(hand);
		return err;
	}
	pthread_setname_np(hand->thread, "tierfs-chore");
	chores->hands++;
	return 0;
}

/* They have put the lock, or are about to. */
static void join_gone(struct chores *chores)
{
	struct hand_list gone;
	struct hand *hand;

	lock_get(&chores->lock);
	gone = chores->gone;
	SLIST_INIT(&chores->gone);
	lock_put(&chores->lock);
	while ((hand = SLIST_FIRST(&gone))) {
		SLIST_REMOVE_HEAD(&gone, link);
		pthread_join(hand->thread, NULL);
		free(hand);
	}
}

void chores_send(struct chores *chores, struct chore *chore)
{
	int err = 0;

	lock_get(&chores->lock);
	TAILQ_INSERT_TAIL(&chores->waiting, chore, link);
	chores->waiting_count++;
	if (chores->idle < chores->waiting_count)
		err = raise_hand(chores);
	pthread_cond_signal(&chores->work);
	lock_put(&chores->lock);
	if (err) /* there is always one, which comes back some time */
		log_warn("attach requests have to wait for each other: no thread: %s", strerror(-err));
	join_gone(chores);
}

static void tell_done(struct chores *chores)
{
	struct chore *chore;

	for (;;) {
		lock_get(&chores->lock);
		chore = TAILQ_FIRST(&chores->done);
		if (chore)
			TAILQ_REMOVE(&chores->done, chore, link);
		lock_put(&chores->lock);
		if (!chore)
			return;
		chore->done(chore->arg);
	}
}

static void on_finished(void *arg, int fd, uint32_t events)
{
	uint64_t count;

	(void)events;
	if (read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_debug("ends of chores: %s", strerror(errno));
	tell_done(arg);
}

int chores_new(struct loop *loop, struct chores **ret)
{
	struct chores *chores = calloc(1, sizeof(*chores));
	int err;

	if (!chores)
		return -ENOMEM;
	lock_init(&chores->lock, LOCK_RANK_LOOP);
	lock_cond_init(&chores->work);
	lock_cond_init(&chores->ended);
	TAILQ_INIT(&chores->waiting);
	TAILQ_INIT(&chores->done);
	SLIST_INIT(&chores->gone);
	chores->finished = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = chores->finished < 0 ? -errno : 0;
	if (!err)
		err = loop_watch(loop, chores->finished, POLLIN, on_finished, chores, NULL);
	lock_get(&chores->lock);
	if (!err)
		err = raise_hand(chores);
	lock_put(&chores->lock);
	if (err) {
		chores_free(chores);
		return err;
	}
	*ret = chores;
	return 0;
}

void chores_finish(struct chores *chores)
{
	bool busy = true;

	while (busy) {
		lock_get(&chores->lock);
		while (TAILQ_EMPTY(&chores->done) && (chores->waiting_count || chores->under_way))
			lock_wait(&chores->lock, &chores->ended);
		busy = !TAILQ_EMPTY(&chores->done);
		lock_put(&chores->lock);
		tell_done(chores);
	}
}

void chores_free(struct chores *chores)
{
	if (!chores)
		return;
	chores_finish(chores);
	lock_get(&chores->lock);
	chores->stopping = true;
	pthread_cond_broadcast(&chores->work);
	while (chores->hands)
		lock_wait(&chores->lock, &chores->ended);
	lock_put(&chores->lock);
	join_gone(chores);
	if (chores->finished >= 0)
		close(chores->finished);
	pthread_cond_destroy(&chores->work);
	pthread_cond_destroy(&chores->ended);
	lock_fini(&chores->lock);
	free(chores);
}
