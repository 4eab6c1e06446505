/* pool/token.h - one-time tokens: proof that a process holds an open descriptor.
 *
 * Issued by the FUSE door's ioctl, redeemed by the sockets. 16 random bytes (getrandom), valid once, for 60 seconds, at
 * most 4096 outstanding (the oldest are dropped). Thread-safe.
 */
#pragma once

#include <stdint.h>

#include <tierfs/ioctl.h>

struct token_table;

struct token_grant {
	uint64_t ino;
	uint32_t rights; /* TIERFS_RIGHT_* */
};

int token_table_new(struct token_table **ret);
void token_table_free(struct token_table *table); /* takes NULL */
void token_issue(struct token_table *table, struct token_grant grant, uint8_t ret_token[static TIERFS_TOKEN_LEN]);
/* -EACCES: never issued, used before, or expired. */
int token_redeem(struct token_table *table, const uint8_t token[static TIERFS_TOKEN_LEN], struct token_grant *ret);
