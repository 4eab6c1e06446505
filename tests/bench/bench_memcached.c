/* link: -lm */
/* bench/bench_memcached.c - a load for a memcached on 127.0.0.1, over its text protocol.
 *
 *   bench_memcached PORT fill KEYS VALUE RATIO
 *   bench_memcached PORT run KEYS VALUE RATIO SECONDS THREADS THETA SEED
 *
 * A key's value is a part of what measure_fill_page() makes for its number, so that a get can tell a wrong one. run: 9
 * gets a set, keys by Zipf, each connection waits for its answer. Times are those of gets.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <netinet/tcp.h>

#include "bench/lib_measure.h"

#define THREADS_MAX 64
#define VALUE_MAX PAGE
#define SET_SHARE 10

static struct {
	uint16_t port;
	uint64_t keys, value, end_ns;
	unsigned int ratio;
	struct zipf zipf;
} job;

struct client {
	pthread_t thread;
	FILE *in;
	int fd;
	uint64_t state, ops, missed, bad;
	struct histogram histogram;
	uint64_t page[PAGE_WORDS];
	char line[256], value[VALUE_MAX + 2], request[VALUE_MAX + 256];
};

static void client_open(struct client *client)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(job.port) };
	int on = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		measure_die("port %u: %s", job.port, strerror(errno));
	setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	client->in = fdopen(client->fd, "r");
	if (!client->in)
		measure_die("no memory");
}

static void client_send(struct client *client, size_t length)
{
	for (size_t sent = 0; sent < length;) {
		ssize_t n = write(client->fd, client->request + sent, length - sent);

		if (n < 0)
			measure_die("write: %s", strerror(errno));
		sent += (size_t)n;
	}
}

static void client_line(struct client *client)
{
	if (!fgets(client->line, sizeof(client->line), client->in))
		measure_die("memcached has closed the connection");
}

/* Without an answer it says nothing about whether it is stored. */
static void client_set(struct client *client, uint64_t key, bool answer)
{
	int head = snprintf(client->request, 256, "set key%lu 0 0 %lu%s\r\n", key, job.value, answer ? "" : " noreply");

	measure_fill_page(client->page, key, job.ratio, 1);
	memcpy(client->request + head, client->page, job.value);
	memcpy(client->request + head + job.value, "\r\n", 2);
	client_send(client, (size_t)head + job.value + 2);
	if (!answer)
		return;
	client_line(client);
	if (strcmp(client->line, "STORED\r\n") != 0)
		measure_die("set: %.40s", strtok(client->line, "\r"));
}

static void client_get(struct client *client, uint64_t key)
{
	uint64_t stamp = measure_stamp(key);

	client_send(client, (size_t)snprintf(client->request, 256, "get key%lu\r\n", key));
	client_line(client);
	if (strcmp(client->line, "END\r\n") == 0) {
		client->missed++;
		return;
	}
	if (fread(client->value, job.value + 2, 1, client->in) != 1)
		measure_die("memcached has closed the connection");
	client_line(client);
	client->bad += memcmp(client->value, &stamp, sizeof(stamp)) != 0;
}

static void *client_run(void *arg)
{
	struct client *client = arg;
	uint64_t now_ns = measure_now_ns();

	while (now_ns < job.end_ns) {
		uint64_t key = measure_shuffle(zipf_next(&job.zipf, &client->state), job.keys, 2), start_ns = now_ns;
		bool set = measure_below(&client->state, SET_SHARE) == 0;

		if (set)
			client_set(client, key, true);
		else
			client_get(client, key);
		now_ns = measure_now_ns();
		client->ops++;
		if (!set)
			histogram_add(&client->histogram, now_ns - start_ns);
	}
	return NULL;
}

static void do_fill(void)
{
	static struct client client;
	uint64_t start_ns = measure_now_ns();

	client_open(&client);
	for (uint64_t key = 0; key < job.keys; key++)
		client_set(&client, key, key % 64 == 0);
	fclose(client.in);
	printf("{\"seconds\": %.3f}\n", (double)(measure_now_ns() - start_ns) / 1e9);
}

static void do_run(double seconds, unsigned int threads, double theta, uint64_t seed)
{
	struct client *clients = calloc(threads, sizeof(*clients));
	struct histogram sum = { .count = 0 };
	uint64_t ops = 0, missed = 0, bad = 0;

	if (!clients)
		measure_die("no memory");
	zipf_init(&job.zipf, job.keys, theta);
	for (unsigned int i = 0; i < threads; i++) {
		clients[i].state = measure_mix(seed * THREADS_MAX + i);
		client_open(&clients[i]);
	}
	job.end_ns = measure_now_ns() + (uint64_t)(seconds * 1e9);
	for (unsigned int i = 0; i < threads; i++)
		if (pthread_create(&clients[i].thread, NULL, client_run, &clients[i]))
			measure_die("no thread");
	for (unsigned int i = 0; i < threads; i++) {
		pthread_join(clients[i].thread, NULL);
		fclose(clients[i].in);
		histogram_merge(&sum, &clients[i].histogram);
		ops += clients[i].ops;
		missed += clients[i].missed;
		bad += clients[i].bad;
	}
	printf("{\"ops\": %lu, \"rate\": %.1f, \"missed\": %lu, \"bad\": %lu, ", ops, (double)ops / seconds, missed,
	       bad);
	histogram_print(&sum);
	printf("}\n");
	free(clients);
}

int main(int argc, char **argv)
{
	if (argc < 6)
		measure_die("usage: bench_memcached PORT fill|run KEYS VALUE RATIO [SECONDS THREADS THETA SEED]");
	job.port = (uint16_t)atoi(argv[1]);
	job.keys = (uint64_t)atoll(argv[3]);
	job.value = measure_parse_size(argv[4]);
	job.ratio = (unsigned int)atoi(argv[5]);
	if (job.value < 8 || job.value > VALUE_MAX || !job.keys)
		measure_die("values have 8 to %lu bytes", VALUE_MAX);
	if (strcmp(argv[2], "fill") == 0)
		do_fill();
	else if (argc == 10 && atoi(argv[7]) >= 1 && atoi(argv[7]) <= THREADS_MAX)
		do_run(atof(argv[6]), (unsigned int)atoi(argv[7]), atof(argv[8]), (uint64_t)atoll(argv[9]));
	else
		measure_die("run: SECONDS THREADS THETA SEED");
	return 0;
}
