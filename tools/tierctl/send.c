/* send.c - tierctl send, recv and stamp: arguments, channels, totals. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/size.h"
#include "cold/mac.h"
#include "conn.h"
#include "move/receiver.h"
#include "send.h"
#include "move/sender.h"
#include "tierctl.h"

static double seconds_of(uint64_t ns)
{
	return (double)ns / (double)NS_PER_S;
}

static double per_second(uint64_t bytes, uint64_t ns)
{
	return ns ? (double)bytes / seconds_of(ns) : 0;
}

int send_open_channel(const struct args *args, bool sending, struct channel *ret)
{
	char why[CHANNEL_WHY_LEN];
	int err;

	/* A pipe that breaks is an error like others. */
	signal(SIGPIPE, SIG_IGN);
	if ((args->listen != NULL) + (args->connect != NULL) + (args->via != NULL) + args->answer > 1)
		return fail(NULL, "--listen, --connect, --via, --answer", "one way at a time");
	if (args->listen)
		err = channel_listen(args->listen, ret, why);
	else if (args->connect)
		err = channel_connect(args->connect, ret, why);
	else if (args->via)
		err = channel_command(args->via, ret, why);
	else
		err = channel_standard(sending, args->answer, ret, why);
	if (err)
		return fail(NULL, why, NULL);
	ret->rate_bytes = args->rate;
	return 0;
}

/* Totals go where the stream does not. */
static int print_totals(const struct channel *channel, const char *text, json_t *json, bool as_json)
{
	FILE *out = channel->out_fd == STDOUT_FILENO ? stderr : stdout;

	if (!as_json) {
		json_decref(json);
		fprintf(out, "%s\n", text);
		return 0;
	}
	if (!json || json_dumpf(json, out, JSON_INDENT(2)) || fputc('\n', out) == EOF)
		fprintf(stderr, "tierctl: output: cannot print JSON\n");
	json_decref(json);
	return 0;
}

char *send_rest_totals(const struct rest_totals *totals, json_t *json, char text[static REST_TEXT_LEN])
{
	json_t *more = json_pack("{s:I, s:I, s:I, s:f, s:f}", "wanted_blocks", (json_int_t)totals->wanted_blocks,
				 "background_blocks", (json_int_t)totals->other_blocks, "rest_bytes",
				 (json_int_t)totals->stream_bytes, "longest_wait_seconds",
				 seconds_of(totals->longest_ns), "rest_seconds", seconds_of(totals->total_ns));

	json_object_update_new(json, more);
	snprintf(text, REST_TEXT_LEN,
		 ", then %llu blocks on demand and %llu in the background in %.1f s, longest wait %.3f s",
		 (unsigned long long)totals->wanted_blocks, (unsigned long long)totals->other_blocks,
		 seconds_of(totals->total_ns), seconds_of(totals->longest_ns));
	return text;
}

/* --- send ------------------------------------------------------------------------------------------------------- */

static int pause_by_command(void *arg, char why[static SENDER_WHY_LEN])
{
	int status = system(arg);

	if (status == 0)
		return 0;
	snprintf(why, SENDER_WHY_LEN, "the pause command failed: %s", (const char *)arg);
	return -ECANCELED;
}

static int list_from_file(struct sender *sender, const char *path)
{
	struct channel file = { .in_fd = open(path, O_RDONLY | O_CLOEXEC), .out_fd = -1 };
	struct reader *reader = NULL;
	int err = file.in_fd < 0 ? -errno : reader_new(STREAM_LIST, channel_read, &file, &reader);

	if (err)
		fail_errno(path, "cannot be read", err);
	if (!err) {
		err = sender_take_list(sender, reader);
		if (err)
			fail(path, "not a list", sender->why);
		else if (!sender->base)
			err = -fail(path, "is the list of another file", "its size or block size is another");
	}
	reader_free(reader);
	if (file.in_fd >= 0)
		close(file.in_fd);
	return err ? 1 : 0;
}

static int print_sent(const struct sender *sender, const struct rest_totals *rest, const struct args *args,
		      const char *path)
{
	const struct source *source = sender->source;
	uint64_t blocks = sender->cold_blocks + sender->resident_blocks;
	char data[SIZE_TEXT_LEN], stream[SIZE_TEXT_LEN], rate[SIZE_TEXT_LEN], text[512], paused[64] = "";
	char more[REST_TEXT_LEN] = "";
	json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:b}", "file", path,
				 "size_bytes", (json_int_t)source->size_bytes, "block_bytes",
				 (json_int_t)source->block_bytes, "cold_blocks", (json_int_t)sender->cold_blocks,
				 "resident_blocks", (json_int_t)sender->resident_blocks, "hole_blocks",
				 (json_int_t)sender->hole_blocks, "skipped_blocks", (json_int_t)sender->skipped_blocks,
				 "rounds", (json_int_t)sender->rounds, "stream_bytes", (json_int_t)sender->stream_bytes,
				 "seconds", seconds_of(sender->total_ns), "bytes_per_second",
				 (json_int_t)per_second(sender->stream_bytes, sender->total_ns), "delta",
				 (int)(sender->base != NULL));

	if (sender->live) {
		json_object_set_new(json, "paused_seconds", json_real(seconds_of(sender->paused_ns)));
		json_object_set_new(json, "paused_bytes", json_integer((json_int_t)sender->round_bytes));
		snprintf(paused, sizeof(paused), ", %llu rounds, paused for %.3f s", (unsigned long long)sender->rounds,
			 seconds_of(sender->paused_ns));
	}
	if (sender->post_copy)
		send_rest_totals(rest, json, more);
	snprintf(text, sizeof(text), "%s: %s of blocks sent as %s, %llu blocks were there already%s, %.1f s, %s/s%s",
		 path, size_format(blocks * source->block_bytes, data), size_format(sender->stream_bytes, stream),
		 (unsigned long long)sender->skipped_blocks, paused, seconds_of(sender->total_ns),
		 size_format((uint64_t)per_second(sender->stream_bytes, sender->total_ns), rate), more);
	return print_totals(sender->channel, text, json, args->json);
}

/* What is cold is only here until the other side has it. */
static int send_rest(struct rest_server *server, const char *path)
{
	if (rest_serve(server))
		return fail(path, "its cold blocks are not all at the target; keep it and go on with send --resume",
			    server->why);
	if (server->totals.gone_blocks)
		return fail(path, "some blocks could not be read", "the target waits for them");
	return 0;
}

static int resume_sending(struct source *source, const struct args *args, const char *path)
{
	struct channel channel = { .in_fd = -1, .out_fd = -1 };
	struct rest_server server = { .source = source, .channel = &channel };
	char text[REST_TEXT_LEN + PATH_MAX], more[REST_TEXT_LEN];
	json_t *json = json_pack("{s:s}", "file", path);
	int rc = send_open_channel(args, true, &channel);

	if (!rc)
		rc = send_rest(&server, path);
	channel_end_writing(&channel);
	if (!rc) {
		snprintf(text, sizeof(text), "%s: sent%s", path, send_rest_totals(&server.totals, json, more));
		rc = print_totals(&channel, text, json_incref(json), args->json);
	}
	json_decref(json);
	if (channel_close(&channel) && !rc)
		rc = fail(args->via, "failed", NULL);
	return rc;
}

int send_run(const struct command *command, int argc, char **argv)
{
	struct channel channel = { .in_fd = -1, .out_fd = -1 };
	struct source source = {};
	struct progress progress;
	struct sender sender = { .source = &source, .channel = &channel, .progress = &progress };
	struct rest_server rest = { .source = &source, .channel = &channel };
	const char *what, *path;
	struct args args;
	int rc = args_parse(command, argc, argv, 1, 1, &args);

	if (rc)
		return rc < 0;
	path = args.operands[0];
	if (args.cold && (args.all || args.live))
		return fail(NULL, "--cold", "not together with --all or --live");
	if (args.post_copy && !args.live)
		return fail(NULL, "--post-copy", "together with --live");
	if (args.since && (args.listen || args.connect || args.via))
		return fail(NULL, "--since", "a receiver that can answer says by itself what it has");
	rc = source_open(path, false, &source, &what);
	if (rc)
		return fail_errno(path, what, rc);
	if (args.resume) {
		rc = resume_sending(&source, &args, path);
		source_close(&source);
		return rc;
	}
	sender.cold_only = args.cold;
	sender.post_copy = args.post_copy;
	sender.live = args.live;
	sender.downtime_ns = args.downtime_ns;
	sender.pause = args.pause ? pause_by_command : NULL;
	sender.pause_arg = (void *)args.pause;
	rc = send_open_channel(&args, true, &channel);
	if (!rc) {
		progress_start(&progress, "sent");
		if (args.since)
			rc = list_from_file(&sender, args.since);
		if (!rc && args.post_copy && !channel.two_way)
			rc = fail(NULL, "--post-copy", "needs a connection that goes both ways");
		if (!rc && sender_talk(&sender))
			rc = fail(path, sender.why, NULL);
		if (!rc && args.post_copy)
			rc = send_rest(&rest, path);
		channel_end_writing(&channel);
		if (!rc)
			rc = print_sent(&sender, &rest.totals, &args, path);
		if (channel_close(&channel) && !rc)
			rc = fail(args.via, "failed", NULL);
	}
	sender_fini(&sender);
	source_close(&source);
	return rc;
}

/* --- recv ------------------------------------------------------------------------------------------------------- */

/* Nobody's memory changes under it. */
static int check_unmapped(const char *path)
{
	struct conn_error error;
	struct conn *conn;
	json_t *stat;
	int rc = 0;

	if (access(path, F_OK) < 0 || conn_open(path, true, &conn, &error))
		return 0; /* what is wrong with it will be told */
	if (!conn_ask(conn, "stat", NULL, NULL, NULL, &stat, &error)) {
		if (json_integer_value(json_object_get(stat, "mappers")) > 0)
			rc = fail(path, "is mapped", "end what uses it, or receive in place");
		json_decref(stat);
	}
	conn_close(conn);
	return rc;
}

static int print_received(const struct receiver *receiver, const struct rest_totals *rest, const struct args *args)
{
	char size[SIZE_TEXT_LEN], stream[SIZE_TEXT_LEN], rate[SIZE_TEXT_LEN], text[512], more[REST_TEXT_LEN] = "";
	json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:b}", "file", receiver->path,
				 "size_bytes", (json_int_t)receiver->header.size_bytes, "block_bytes",
				 (json_int_t)receiver->header.block_bytes, "blocks",
				 (json_int_t)receiver->totals.blocks, "hole_blocks",
				 (json_int_t)receiver->totals.hole_blocks, "dram_blocks",
				 (json_int_t)receiver->dram_blocks, "store_blocks", (json_int_t)receiver->store_blocks,
				 "rounds", (json_int_t)receiver->rounds, "stream_bytes",
				 (json_int_t)receiver->stream_bytes, "seconds", seconds_of(receiver->total_ns),
				 "bytes_per_second", (json_int_t)per_second(receiver->stream_bytes, receiver->total_ns),
				 "delta", (int)receiver->delta);

	if (receiver->post_copy)
		send_rest_totals(rest, json, more);
	snprintf(text, sizeof(text), "%s: %s%s came in %s, %llu blocks to DRAM, %llu to the store, %.1f s, %s/s%s",
		 receiver->path, receiver->delta ? "what changed of " : "",
		 size_format(receiver->header.size_bytes, size), size_format(receiver->stream_bytes, stream),
		 (unsigned long long)receiver->dram_blocks, (unsigned long long)receiver->store_blocks,
		 seconds_of(receiver->total_ns),
		 size_format((uint64_t)per_second(receiver->stream_bytes, receiver->total_ns), rate), more);
	return print_totals(receiver->channel, text, json, args->json);
}

static int recv_rest(struct rest_fetcher *fetcher)
{
	char left[SIZE_TEXT_LEN], what[128];

	if (!rest_fetch(fetcher))
		return 0;
	snprintf(what, sizeof(what), "%s are still on the other host; go on with recv --resume",
		 size_format(fetcher->left_bytes, left));
	return fail(fetcher->path, what, fetcher->why);
}

static int resume_receiving(const struct args *args)
{
	struct channel channel = { .in_fd = -1, .out_fd = -1 };
	struct progress progress;
	struct rest_fetcher fetcher = { .path = args->operands[0], .channel = &channel, .progress = &progress };
	char text[REST_TEXT_LEN + PATH_MAX], more[REST_TEXT_LEN];
	json_t *json = json_pack("{s:s}", "file", fetcher.path);
	int rc = send_open_channel(args, false, &channel);

	if (!rc) {
		progress_start(&progress, "received");
		rc = recv_rest(&fetcher);
	}
	if (!rc) {
		snprintf(text, sizeof(text), "%s: all here%s", fetcher.path,
			 send_rest_totals(&fetcher.totals, json, more));
		rc = print_totals(&channel, text, json_incref(json), args->json);
	}
	json_decref(json);
	channel_close(&channel);
	return rc;
}

int recv_run(const struct command *command, int argc, char **argv)
{
	struct channel channel = { .in_fd = -1, .out_fd = -1 };
	struct progress progress;
	struct receiver receiver = { .channel = &channel, .progress = &progress };
	struct rest_fetcher rest = { .channel = &channel, .progress = &progress };
	struct args args;
	int rc = args_parse(command, argc, argv, 1, 1, &args);

	if (rc)
		return rc < 0;
	if (args.resume)
		return resume_receiving(&args);
	receiver.path = rest.path = args.operands[0];
	receiver.in_place = args.in_place;
	if (!args.in_place && check_unmapped(receiver.path))
		return 1;
	rc = send_open_channel(&args, false, &channel);
	if (rc)
		return rc;
	progress_start(&progress, "received");
	if (receiver_run(&receiver))
		rc = fail(receiver.path, receiver.why, NULL);
	else if (receiver.post_copy)
		rc = recv_rest(&rest);
	if (!rc)
		rc = print_received(&receiver, &rest.totals, &args);
	receiver_fini(&receiver);
	channel_close(&channel);
	return rc;
}

/* --- stamp ------------------------------------------------------------------------------------------------------ */

static int write_list(struct source *source, const uint8_t key[static STREAM_KEY_BYTES],
		      const struct tierfs_ident *list)
{
	struct stream_header header = { .size_bytes = source->size_bytes, .block_bytes = source->block_bytes };
	struct channel channel = { .in_fd = -1, .out_fd = STDOUT_FILENO };
	struct writer *writer = NULL;
	int err = getrandom(header.id, sizeof(header.id), 0) == sizeof(header.id) ? 0 : -EIO;

	memcpy(header.key, key, sizeof(header.key));
	if (!err)
		err = writer_new(STREAM_LIST, &header, channel_write, &channel, &writer);
	if (!err)
		err = writer_list(writer, list, source->blocks, stream_stamp_all(list, source->blocks));
	writer_free(writer);
	return err ? fail_errno("output", "cannot be written", err) : 0;
}

/* A stamp is to be compared with that of any other file, so it is made with a key that everybody knows: equal content
 * cannot be made on purpose all the same. A list has a key of its own. */
static int list_source(struct source *source, bool stamp, uint8_t key[static STREAM_KEY_BYTES],
		       struct tierfs_ident *list, struct tierfs_ident *ret_stamp)
{
	struct source_table table = {};
	struct mac *mac = NULL;
	int err = 0;

	memset(key, 0, STREAM_KEY_BYTES);
	if (!stamp && getrandom(key, STREAM_KEY_BYTES, 0) != STREAM_KEY_BYTES)
		err = -EIO;
	if (!err)
		err = mac_new(MAC_LIST, key, &mac);
	if (!err)
		err = source_table_init(&table, source->blocks);
	if (!err)
		err = source_list(source, mac, NULL, &table, list);
	if (!err)
		err = source_list_ident(key, list, source->blocks, ret_stamp);
	source_table_fini(&table);
	mac_free(mac);
	return err;
}

static int print_stamp(const struct source *source, const char *path, struct tierfs_ident stamp)
{
	uint8_t bytes[IDENT_BYTES];
	char text[2 * IDENT_BYTES + 1];

	ident_put(stamp, bytes);
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	return print_json(json_pack("{s:s, s:s, s:I, s:I}", "file", path, "stamp", text, "size_bytes",
				    (json_int_t)source->size_bytes, "block_bytes", (json_int_t)source->block_bytes));
}

int stamp_run(const struct command *command, int argc, char **argv)
{
	CLEANUP_FREE struct tierfs_ident *list = NULL;
	uint8_t key[STREAM_KEY_BYTES];
	struct source source = {};
	struct tierfs_ident stamp;
	char why[SOURCE_WHY_LEN];
	const char *what, *path;
	struct args args;
	int rc = args_parse(command, argc, argv, 1, 1, &args);

	if (rc)
		return rc < 0;
	path = args.operands[0];
	if (!args.json && isatty(STDOUT_FILENO))
		return fail("standard output", "a list is nothing for a terminal", NULL);
	rc = source_open(path, false, &source, &what);
	if (rc)
		return fail_errno(path, what, rc);
	list = malloc((source.blocks + 1) * sizeof(*list));
	rc = list ? list_source(&source, args.json, key, list, &stamp) : -ENOMEM;
	if (rc)
		rc = fail(path, "cannot be read", source_why(&source, rc, why));
	else
		rc = args.json ? print_stamp(&source, path, stamp) : write_list(&source, key, list);
	source_close(&source);
	return rc;
}
