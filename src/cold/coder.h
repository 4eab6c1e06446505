/* cold/coder.h - what one way to compress does for the codec: raw bytes to a payload and back. Each is a file
 * coder_NAME.c, the only one that includes its library, and a row of coders.def.
 *
 * Thread-safety: what is behind *state belongs to one thread at a time.
 */
#pragma once

#include <stddef.h>

struct coder {
	/* 0 and *ret_len; -E2BIG as soon as it is seen that more than cap bytes would be needed; -ENOMEM. *state is
	 * NULL at first; what is made there is kept for the next call, and ends with free_compress(). */
	int (*compress)(void **state, int level, const void *raw, size_t raw_bytes, void *out, size_t cap,
			size_t *ret_len);
	void (*free_compress)(void *state); /* takes NULL, and so does the other one */
	/* Exactly raw_bytes of content, or -EBADMSG; -ENOMEM. The payload may be anything. */
	int (*expand)(void **state, const void *payload, size_t payload_bytes, void *out, size_t raw_bytes);
	void (*free_expand)(void *state);
};

#define CODER(id, number, first, last, room) extern const struct coder coder_##room;
#include "cold/coders.def"
#undef CODER
