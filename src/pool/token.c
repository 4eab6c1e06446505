/* pool/token.c - see token.h: a ring of grants, oldest first. A redeemed one leaves a gap that its turn in the ring
 * closes. */
#include "pool/token.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/lock.h"

#define TOKEN_MAX 4096
#define TOKEN_LIFE_NS (60 * NS_PER_S)

struct token {
	uint8_t bytes[TIERFS_TOKEN_LEN];
	struct token_grant grant;
	uint64_t expires_ns; /* 0: free */
};

struct token_table {
	struct lock lock;
	unsigned int next; /* lock, as is the ring */
	struct token ring[TOKEN_MAX];
};

int token_table_new(struct token_table **ret)
{
	struct token_table *table = calloc(1, sizeof(*table));

	if (!table)
		return -ENOMEM;
	lock_init(&table->lock, LOCK_RANK_TOKEN);
	*ret = table;
	return 0;
}

void token_table_free(struct token_table *table)
{
	if (!table)
		return;
	lock_fini(&table->lock);
	explicit_bzero(table, sizeof(*table));
	free(table);
}

void token_issue(struct token_table *table, struct token_grant grant, uint8_t ret_token[static TIERFS_TOKEN_LEN])
{
	struct token *token;

	/* Never short, and never fails once the host's pool was filled at boot; if it does, no token may be
	 * predictable. */
	if (getrandom(ret_token, TIERFS_TOKEN_LEN, 0) != TIERFS_TOKEN_LEN)
		abort();
	LOCK_SCOPE(&table->lock);
	token = &table->ring[table->next];
	table->next = (table->next + 1) % TOKEN_MAX;
	memcpy(token->bytes, ret_token, TIERFS_TOKEN_LEN);
	token->grant = grant;
	token->expires_ns = clock_ns() + TOKEN_LIFE_NS;
}

/* Takes the same time wherever the first difference is: the other side could measure it. */
static bool token_equal(const uint8_t *a, const uint8_t *b)
{
	unsigned int difference = 0;

	for (unsigned int i = 0; i < TIERFS_TOKEN_LEN; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

int token_redeem(struct token_table *table, const uint8_t token[static TIERFS_TOKEN_LEN], struct token_grant *ret)
{
	uint64_t now = clock_ns();

	LOCK_SCOPE(&table->lock);
	for (unsigned int i = 0; i < TOKEN_MAX; i++) {
		struct token *candidate = &table->ring[i];

		if (candidate->expires_ns == 0 || !token_equal(candidate->bytes, token))
			continue;
		if (candidate->expires_ns < now)
			break;
		*ret = candidate->grant;
		explicit_bzero(candidate, sizeof(*candidate));
		return 0;
	}
	return -EACCES;
}
