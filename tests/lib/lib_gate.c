#include "lib_gate.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool is_shut, is_met;

void gate_pass(void)
{
	pthread_mutex_lock(&lock);
	is_met = is_shut;
	pthread_cond_broadcast(&changed);
	while (is_shut)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

void gate_set(bool shut)
{
	pthread_mutex_lock(&lock);
	is_shut = shut;
	is_met = false;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

void gate_await(void)
{
	pthread_mutex_lock(&lock);
	while (!is_met)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}
