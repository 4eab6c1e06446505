/* unit/test_peers.c - who goes into a process for others takes a processor at once, whoever sent it. */
#include <check.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/thread.h"
#include "lib_check.h"
#include "map/peers.h"

struct errand {
	struct peer_errand errand; /* first */
	uint64_t slice_ns;
	int nice;
};

static struct peers *peers;
static struct peer *peer;

static void recovered(void *arg, struct peer *who)
{
	(void)arg;
	(void)who;
}

static int note_slice(struct peer_errand *errand)
{
	struct errand *mine = (struct errand *)errand;

	mine->nice = getpriority(PRIO_PROCESS, (id_t)gettid());
	return thread_slice(&mine->slice_ns);
}

static void never_late(struct peer_errand *errand)
{
	(void)errand;
}

/* As the demoter does: everybody else may go first. */
static void *send_arm(void *arg)
{
	struct errand *errand = arg;
	uint64_t own_ns;

	ck_assert_int_eq(thread_set_slice(THREAD_SLICE_LONG_NS), 0);
	ck_assert_int_eq(peer_call(peer, &errand->errand), 0);
	ck_assert_int_eq(thread_slice(&own_ns), 0);
	if (own_ns) /* else the kernel has no slices */
		ck_assert_uint_eq(errand->slice_ns, THREAD_SLICE_SHORT_NS);
	if (setpriority(PRIO_PROCESS, (id_t)gettid(), -1) == 0) /* else it is not allowed */
		ck_assert_int_lt(errand->nice, -1);
	return NULL;
}

START_TEST(an_arm_waits_for_nobody)
{
	static struct errand errand = { .errand = { .go = note_slice, .late = never_late } };
	pthread_t thread;

	ck_assert_int_eq(peers_new(recovered, NULL, &peers), 0);
	ck_assert_int_eq(peers_get(peers, getpid(), -1, &peer), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, send_arm, &errand), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	peers_put(peer);
	peers_free(peers);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("peers");
	TCase *tcase = tcase_create("arm");

	tcase_add_test(tcase, an_arm_waits_for_nobody);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
