/* stream/writer.h - makes a stream. What it is asked to write must be in the order that the format wants: it asserts
 * the rules that a reader checks. Belongs to one thread. 0 or what the write function returned; after an error
 * every further call returns it again.
 */
#pragma once

#include "stream/stream.h"

struct writer;

/* Writes all of it. 0 or -errno. */
typedef int writer_fn(void *arg, const void *buf, size_t length);

/* header is checked: -EINVAL, -EFBIG. Writes magic and header (into the buffer). */
int writer_new(enum stream_kind kind, const struct stream_header *header, writer_fn *fn, void *arg,
	       struct writer **ret);
void writer_free(struct writer *writer); /* takes NULL; writes nothing */

int writer_part(struct writer *writer, uint64_t part);
/* generation counts in the resident part only, where it is a part of the order. */
int writer_holes(struct writer *writer, uint64_t block, uint64_t count, uint8_t generation);
/* Fields of a BLOCK record. */
int writer_block(struct writer *writer, const struct stream_record *record);
int writer_idents(struct writer *writer, uint64_t block, const struct tierfs_ident *idents, size_t count);
/* A list as a whole: the identities of all blocks, and the end. */
int writer_list(struct writer *writer, const struct tierfs_ident *idents, uint64_t count, struct tierfs_ident stamp);
/* count entries as stream_put_away() makes them, at most STREAM_HASHES_MAX. */
int writer_away(struct writer *writer, uint64_t block, const uint8_t *entries, size_t count);
int writer_want(struct writer *writer, uint64_t block, bool waits);
int writer_gone(struct writer *writer, uint64_t block, int err);
/* Ends the stream and writes everything. */
int writer_end(struct writer *writer, struct tierfs_ident stamp);
/* The same, with a reason; longer ones are cut. */
int writer_abort(struct writer *writer, const char *reason);
/* After the end of a list: how it went. err: 0 or -errno. */
int writer_result(struct writer *writer, int err, const char *text);
/* Hands over what is in the buffer. */
int writer_flush(struct writer *writer);

const struct stream_totals *writer_totals(const struct writer *writer);
/* Bytes of the stream so far, with those in the buffer. */
uint64_t writer_bytes(const struct writer *writer);
