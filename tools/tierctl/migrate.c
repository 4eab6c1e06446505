/* migrate.c - tierctl migrate: moves a running QEMU to another mount. QEMU moves the state of its devices
 * (x-ignore-shared leaves shared memory out), a stream moves the memory.
 *
 *   1 source, target   QMP: both are there, capabilities are set, the target waits for an incoming migration
 *   2 stream           cold blocks, resident blocks, rounds of what changed, while the guest runs
 *   3 source           stop
 *   4 stream           the last round; the receiver says that it has everything
 *   5 source           migrate: device state alone, some milliseconds
 *   6 target           cont
 *
 * With --post-copy cold blocks are left out of 2, and go beside 5 and after 6, on the connection of the stream. Beside
 * 5, since the target may need a cold block to take the devices' state.
 *
 * Until 5 is done an error lets the source go on as if nothing had been: the target is of no use then.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "qmp.h"
#include "send.h"
#include "move/sender.h"
#include "tierctl.h"

#define POLL_NS (2 * NS_PER_MS)
#define DEVICES_NS (30 * NS_PER_S)
/* What a prediction looks at. */
#define SAMPLE_BLOCKS 512
#define WATCH_NS NS_PER_S

struct migrate {
	const struct args *args;
	const char *path;
	struct qmp *source, *target;
	bool was_running, stopped, handed_over; /* handed_over: the source must not go on */
	uint64_t stopped_ns, downtime_ns, devices_ns;
	char why[SENDER_WHY_LEN];
	struct rest_server rest; /* its thread's, while it runs */
	int rest_err;
};

static int set_capability(struct qmp *qmp, char *why)
{
	return qmp_run(qmp, "migrate-set-capabilities",
		       json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "x-ignore-shared", "state", 1), NULL,
		       why);
}

static int status_of(struct qmp *qmp, char status[static 32], char *why)
{
	json_t *answer = NULL;
	int err = qmp_run(qmp, "query-status", NULL, &answer, why);
	const char *text = json_string_value(json_object_get(answer, "status"));

	snprintf(status, 32, "%s", text ? text : "?");
	json_decref(answer);
	return err;
}

static int meet(struct migrate *migrate)
{
	const struct args *args = migrate->args;
	char status[32], *why = migrate->why;
	int err = qmp_open(args->qmp, &migrate->source, why);

	if (!err)
		err = status_of(migrate->source, status, why);
	if (err)
		return err;
	migrate->was_running = !strcmp(status, "running");
	if (!migrate->was_running && strcmp(status, "paused") != 0) {
		snprintf(why, SENDER_WHY_LEN, "the source is in state %s", status);
		return -EINVAL;
	}
	err = qmp_open(args->target_qmp, &migrate->target, why);
	if (!err)
		err = status_of(migrate->target, status, why);
	if (!err && strcmp(status, "inmigrate") != 0) {
		snprintf(why, SENDER_WHY_LEN, "the target is in state %s: start it with -incoming defer", status);
		err = -EINVAL;
	}
	if (!err)
		err = set_capability(migrate->source, why);
	if (!err)
		err = set_capability(migrate->target, why);
	if (!err)
		err = qmp_run(migrate->target, "migrate-incoming", json_pack("{s:s}", "uri", args->uri), NULL, why);
	return err;
}

static int stop_source(void *arg, char why[static SENDER_WHY_LEN])
{
	struct migrate *migrate = arg;
	int err;

	migrate->stopped_ns = clock_ns();
	migrate->stopped = true;
	err = qmp_run(migrate->source, "stop", NULL, NULL, migrate->why);
	if (err)
		memcpy(why, migrate->why, QMP_WHY_LEN);
	return err;
}

static int move_devices(struct migrate *migrate)
{
	uint64_t start_ns = clock_ns(), deadline_ns = start_ns + DEVICES_NS;
	int err = qmp_run(migrate->source, "migrate", json_pack("{s:s}", "uri", migrate->args->uri), NULL,
			  migrate->why);

	while (!err) {
		json_t *answer = NULL;
		const char *status;

		err = qmp_run(migrate->source, "query-migrate", NULL, &answer, migrate->why);
		status = json_string_value(json_object_get(answer, "status"));
		if (!err && status && !strcmp(status, "completed")) {
			json_decref(answer);
			break;
		}
		if (!err && (!status || !strcmp(status, "failed") || !strcmp(status, "cancelled") ||
			     clock_ns() > deadline_ns)) {
			const char *text = json_string_value(json_object_get(answer, "error-desc"));

			snprintf(migrate->why, sizeof(migrate->why), "migrate: %s",
				 text ? text : "it did not end well");
			err = -EREMOTEIO;
		}
		json_decref(answer);
		clock_sleep(POLL_NS);
	}
	migrate->devices_ns = clock_ns() - start_ns;
	return err;
}

/* The target may need a moment more to take the end of what the source has sent. */
static int start_target(struct migrate *migrate)
{
	uint64_t deadline_ns = clock_ns() + DEVICES_NS;
	char status[32] = "";
	int err = 0;

	do {
		err = status_of(migrate->target, status, migrate->why);
	} while (!err && !strcmp(status, "inmigrate") && clock_ns() < deadline_ns && (clock_sleep(POLL_NS), true));
	if (!err && !strcmp(status, "inmigrate")) {
		snprintf(migrate->why, sizeof(migrate->why), "the target does not take the state of its devices");
		err = -ETIMEDOUT;
	}
	if (!err && migrate->was_running)
		err = qmp_run(migrate->target, "cont", NULL, NULL, migrate->why);
	migrate->downtime_ns = clock_ns() - migrate->stopped_ns;
	return err;
}

/* 0: nothing of it goes on, for certain. A connection that failed says nothing. */
static int cancel_devices(struct migrate *migrate)
{
	uint64_t deadline_ns = clock_ns() + DEVICES_NS;
	char unused[SENDER_WHY_LEN];
	int err = qmp_run(migrate->source, "migrate_cancel", NULL, NULL, unused);

	while (!err) {
		json_t *answer = NULL;
		const char *status;
		bool over, done;

		err = qmp_run(migrate->source, "query-migrate", NULL, &answer, unused);
		status = json_string_value(json_object_get(answer, "status"));
		over = !status || !strcmp(status, "none") || !strcmp(status, "cancelled") || !strcmp(status, "failed");
		done = status && !strcmp(status, "completed");
		json_decref(answer);
		if (!err && over)
			return 0;
		if (done || clock_ns() > deadline_ns)
			return -EBUSY;
		clock_sleep(POLL_NS);
	}
	return err;
}

static int go_on(struct migrate *migrate)
{
	int err = move_devices(migrate);

	if (err) {
		/* Two machines with one life are worse than none. */
		migrate->handed_over = cancel_devices(migrate) != 0;
		return err;
	}
	migrate->handed_over = true;
	return start_target(migrate);
}

static void *serve_rest(void *arg)
{
	struct migrate *migrate = arg;

	migrate->rest_err = rest_serve(&migrate->rest);
	if (!migrate->rest_err && migrate->rest.totals.gone_blocks) {
		migrate->rest_err = -EIO;
		snprintf(migrate->rest.why, sizeof(migrate->rest.why), "some blocks could not be read");
	}
	return NULL;
}

/* The target may need a cold block already to take the state of its devices. */
static int go_on_with_rest(struct migrate *migrate, struct sender *sender)
{
	pthread_t thread;
	int err;

	migrate->rest = (struct rest_server){ .source = sender->source, .channel = sender->channel };
	err = -pthread_create(&thread, NULL, serve_rest, migrate);
	if (err) {
		snprintf(migrate->why, sizeof(migrate->why), "%s", strerror(-err));
		return err;
	}
	err = go_on(migrate);
	if (err && !migrate->handed_over)
		channel_break(sender->channel); /* what came there is of no use */
	pthread_join(thread, NULL);
	if (!err && migrate->rest_err) {
		err = migrate->rest_err;
		snprintf(migrate->why, sizeof(migrate->why),
			 "cold blocks are only here: keep it, go on with send --resume: %.400s", migrate->rest.why);
	}
	return err;
}

static int move(struct migrate *migrate, struct sender *sender)
{
	int err;

	sender->pause = stop_source;
	sender->pause_arg = migrate;
	err = sender_talk(sender);
	if (err) {
		snprintf(migrate->why, sizeof(migrate->why), "%s", sender->why);
		return err;
	}
	return sender->post_copy ? go_on_with_rest(migrate, sender) : go_on(migrate);
}

/* --- prediction ------------------------------------------------------------------------------------------------- */

struct sample {
	uint64_t blocks, bytes;
};

static int count_value(void *arg, const struct source_value *value)
{
	struct sample *sample = arg;

	sample->blocks++;
	sample->bytes += value->length_bytes;
	return 0;
}

/* How many bytes a block of that state takes in a stream, on average. */
static int sample_state(struct source *source, const struct source_table *table, uint8_t state, uint64_t count,
			double *ret_bytes)
{
	uint64_t block[SAMPLE_BLOCKS], step = count / SAMPLE_BLOCKS + 1, seen = 0, taken = 0;
	struct source_wish wish = { .resident = true };
	struct sample sample = {};
	int err;

	for (uint64_t i = 0; i < table->count && taken < SAMPLE_BLOCKS; i++)
		if (table->state[i] == state && seen++ % step == 0)
			block[taken++] = i;
	err = source_values(source, &wish, block, taken, count_value, &sample);
	*ret_bytes = sample.blocks ? (double)sample.bytes / (double)sample.blocks + STREAM_HEAD_BYTES : 0;
	return err;
}

struct prediction {
	uint64_t cold, resident;           /* blocks */
	double cold_bytes, resident_bytes; /* of the stream, each */
	uint64_t scan_ns, changed;         /* blocks that changed within WATCH_NS */
};

static int watch(struct source *source, struct source_table *table, struct prediction *ret)
{
	uint64_t *block = malloc((table->count + 1) * sizeof(*block)), count = 0;
	struct tierfs_ident *before;
	int err = block ? 0 : -ENOMEM;

	for (uint64_t i = 0; !err && i < table->count; i++)
		if (table->state[i] >= TIERFS_STATE_RESIDENT)
			block[count++] = i;
	if (!err)
		err = source_identify(source, table, block, count);
	before = malloc((count + 1) * sizeof(*before));
	if (!before)
		err = -ENOMEM;
	for (uint64_t i = 0; !err && i < count; i++)
		before[i] = table->ident[block[i]];
	if (!err) {
		clock_sleep(WATCH_NS);
		ret->scan_ns = clock_ns();
		err = source_identify(source, table, block, count);
		ret->scan_ns = clock_ns() - ret->scan_ns;
	}
	for (uint64_t i = 0; !err && i < count; i++)
		ret->changed += !ident_same(before[i], table->ident[block[i]]);
	free(block);
	free(before);
	return err;
}

static int predict(struct source *source, struct prediction *ret)
{
	struct source_table table;
	int err = source_table_init(&table, source->blocks);

	*ret = (struct prediction){};
	if (!err)
		err = source_look(source, &table);
	for (uint64_t i = 0; !err && i < table.count; i++) {
		ret->cold += table.state[i] == TIERFS_STATE_COLD;
		ret->resident += table.state[i] >= TIERFS_STATE_RESIDENT;
	}
	if (!err)
		err = sample_state(source, &table, TIERFS_STATE_COLD, ret->cold, &ret->cold_bytes);
	if (!err)
		err = sample_state(source, &table, TIERFS_STATE_RESIDENT, ret->resident, &ret->resident_bytes);
	if (!err)
		err = watch(source, &table, ret);
	source_table_fini(&table);
	return err;
}

/* At the rate that was given, or 100 MiB a second. What changes in the time of a scan and of its sending is sent in the
 * next round: the last one is what is left of that. */
static int print_prediction(struct source *source, const struct args *args, const char *path)
{
	double rate = args->rate ? (double)args->rate : 100.0 * (1 << 20);
	struct prediction p;
	double first, changing, last_s;
	char why[SOURCE_WHY_LEN], size[SIZE_TEXT_LEN], change[SIZE_TEXT_LEN];
	int err = predict(source, &p);

	if (err)
		return fail(path, "cannot be read", source_why(source, err, why));
	first = (double)p.cold * p.cold_bytes + (double)p.resident * p.resident_bytes;
	changing = (double)p.changed * p.resident_bytes; /* bytes of the stream a second */
	last_s = (double)p.scan_ns / 1e9 + changing * ((double)p.scan_ns / 1e9 + 0.1) / rate;
	if (args->json)
		return print_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "file", path, "cold_blocks",
					    (json_int_t)p.cold, "resident_blocks", (json_int_t)p.resident,
					    "stream_bytes", (json_int_t)first, "changed_bytes_per_second",
					    (json_int_t)changing, "scan_seconds", (double)p.scan_ns / 1e9, "seconds",
					    first / rate, "downtime_seconds", last_s));
	printf("%s: about %s to send, %.1f s; %s a second change; downtime about %.3f s\n", path,
	       size_format((uint64_t)first, size), first / rate, size_format((uint64_t)changing, change), last_s);
	return 0;
}

/* --- command ---------------------------------------------------------------------------------------------------- */

static int print_moved(const struct migrate *migrate, const struct sender *sender)
{
	char stream[SIZE_TEXT_LEN], last[SIZE_TEXT_LEN], more[REST_TEXT_LEN] = "";
	json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:b}", "file",
				 migrate->path, "stream_bytes", (json_int_t)sender->stream_bytes, "cold_blocks",
				 (json_int_t)sender->cold_blocks, "resident_blocks",
				 (json_int_t)sender->resident_blocks, "skipped_blocks",
				 (json_int_t)sender->skipped_blocks, "rounds", (json_int_t)sender->rounds,
				 "last_round_bytes", (json_int_t)sender->round_bytes, "seconds",
				 (double)sender->total_ns / 1e9, "downtime_seconds", (double)migrate->downtime_ns / 1e9,
				 "stop_seconds", (double)sender->stop_ns / 1e9, "memory_seconds",
				 (double)sender->paused_ns / 1e9, "devices_seconds", (double)migrate->devices_ns / 1e9,
				 "delta", (int)(sender->base != NULL));

	if (sender->post_copy)
		send_rest_totals(&migrate->rest.totals, json, more);
	if (migrate->args->json)
		return print_json(json);
	json_decref(json);
	printf("%s: moved, %s in %.1f s, %llu rounds; stood still for %.3f s (last round %s)%s\n", migrate->path,
	       size_format(sender->stream_bytes, stream), (double)sender->total_ns / 1e9,
	       (unsigned long long)sender->rounds, (double)migrate->downtime_ns / 1e9,
	       size_format(sender->round_bytes, last), more);
	return 0;
}

static int run_move(struct migrate *migrate, struct source *source)
{
	struct channel channel = { .in_fd = -1, .out_fd = -1 };
	struct progress progress;
	struct sender sender = {
		.source = source,
		.channel = &channel,
		.progress = &progress,
		.live = true,
		.post_copy = migrate->args->post_copy,
		.downtime_ns = migrate->args->downtime_ns,
	};
	int rc;

	/* Before a receiver is begun: a QEMU that answers has made its RAM's file as large as it shall be. */
	if (meet(migrate))
		return fail(migrate->path, "not moved", migrate->why);
	rc = send_open_channel(migrate->args, true, &channel);
	if (rc)
		return rc;
	progress_start(&progress, "moved");
	rc = move(migrate, &sender);
	progress_end(&progress);
	if (rc) {
		char unused[QMP_WHY_LEN];

		rc = fail(migrate->path,
			  !migrate->handed_over ? "not moved"
			  : migrate->rest_err   ? "moved, but"
						: "moved, but does not run",
			  migrate->why);
		if (migrate->stopped && migrate->was_running && !migrate->handed_over)
			qmp_run(migrate->source, "cont", NULL, NULL, unused);
	} else {
		rc = print_moved(migrate, &sender);
	}
	channel_end_writing(&channel);
	channel_close(&channel);
	sender_fini(&sender);
	return rc;
}

int migrate_run(const struct command *command, int argc, char **argv)
{
	struct migrate migrate = {};
	struct source source = {};
	struct args args;
	const char *what;
	int rc = args_parse(command, argc, argv, 1, 1, &args);

	if (rc)
		return rc < 0;
	migrate.args = &args;
	migrate.path = args.operands[0];
	if (!args.dry_run && (!args.qmp || !args.target_qmp || !args.uri || !(args.via || args.connect || args.listen)))
		return fail(NULL, "an option is missing",
			    "--qmp, --target-qmp, --uri, and one of --via, --connect, --listen");
	rc = source_open(migrate.path, false, &source, &what);
	if (rc)
		return fail_errno(migrate.path, what, rc);
	rc = args.dry_run ? print_prediction(&source, &args, migrate.path) : run_move(&migrate, &source);
	qmp_close(migrate.source);
	qmp_close(migrate.target);
	source_close(&source);
	return rc;
}
