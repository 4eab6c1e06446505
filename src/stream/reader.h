/* stream/reader.h - takes a stream apart, record by record, and believes nothing.
 *
 * Memory: one record, and a bit for each block of the file (touched only where blocks are named). Belongs to one
 * thread. Errors are -errno, with a text that names the record and where it begins:
 *   -EBADMSG          damaged, out of order, or it contradicts itself
 *   -EPROTONOSUPPORT  of a version, or with features, that this program does not know
 *   -ENODATA          it ends before its end
 *   -ECANCELED        the other side gave up; the text is its reason
 *   -ENOMEM, and what the read function returned
 */
#pragma once

#include <sys/types.h>

#include "stream/stream.h"

struct reader;

/* As read(2), but -errno. */
typedef ssize_t reader_fn(void *arg, void *buf, size_t length);

/* -ENOMEM. */
int reader_new(enum stream_kind kind, reader_fn *fn, void *arg, struct reader **ret);
void reader_free(struct reader *reader); /* takes NULL */

/* The header, which is the first record. */
int reader_begin(struct reader *reader, struct stream_header *ret);
/* The next record: BLOCK, HOLES, PART, HASHES, RESULT, AWAY, WANT, GONE or, once, END. Its payload is valid until the
 * next call. ABORT is an error. After END a stream of blocks has no more; after END of a list a RESULT may come. */
int reader_next(struct reader *reader, struct stream_record *ret);
/* After END: -EBADMSG if anything follows. */
int reader_finish(struct reader *reader);

/* True if something was read that was not taken: the next record may be there without a wait. */
bool reader_pending(const struct reader *reader);
/* What the last error was, one line. */
const char *reader_error(const struct reader *reader);
/* Bytes taken so far. */
uint64_t reader_bytes(const struct reader *reader);
