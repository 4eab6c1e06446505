/* One-time tokens: accepted once, of any order, and never what was not issued. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "pool/token.h"
#include "lib_check.h"

#define MANY 4096

static struct token_table *table;

static void setup(void)
{
	ck_assert_int_eq(token_table_new(&table), 0);
}

static void teardown(void)
{
	token_table_free(table);
}

static struct token_grant grant(uint64_t ino)
{
	return (struct token_grant){ .ino = ino, .rights = (uint32_t)(ino % 3) + 1 };
}

START_TEST(accepted_once)
{
	uint8_t token[TIERFS_TOKEN_LEN];
	struct token_grant got = { 0 };

	token_issue(table, grant(7), token);
	ck_assert_int_eq(token_redeem(table, token, &got), 0);
	ck_assert_uint_eq(got.ino, 7);
	ck_assert_uint_eq(got.rights, 2);
	got.ino = 99;
	ck_assert_int_eq(token_redeem(table, token, &got), -EACCES);
	ck_assert_uint_eq(got.ino, 99);
}
END_TEST

START_TEST(never_issued)
{
	uint8_t token[TIERFS_TOKEN_LEN] = { 0 }, close_by[TIERFS_TOKEN_LEN];
	struct token_grant got;

	/* A free place in the table holds zeros. */
	ck_assert_int_eq(token_redeem(table, token, &got), -EACCES);
	token_issue(table, grant(1), token);
	for (int bit = 0; bit < TIERFS_TOKEN_LEN * 8; bit++) {
		memcpy(close_by, token, sizeof(token));
		close_by[bit / 8] ^= (uint8_t)(1 << bit % 8);
		ck_assert_int_eq(token_redeem(table, close_by, &got), -EACCES);
	}
	ck_assert_int_eq(token_redeem(table, token, &got), 0);
}
END_TEST

START_TEST(the_oldest_are_dropped)
{
	static uint8_t token[MANY + 10][TIERFS_TOKEN_LEN];
	struct token_grant got;

	for (unsigned int i = 0; i < MANY + 10; i++)
		token_issue(table, grant(i), token[i]);
	for (unsigned int i = 0; i < MANY + 10; i++) {
		int rc = token_redeem(table, token[i], &got);

		ck_assert_int_eq(rc, i < 10 ? -EACCES : 0);
		if (rc == 0)
			ck_assert_uint_eq(got.ino, i);
	}
}
END_TEST

static void *issue_and_redeem(void *arg)
{
	uint64_t first = (uint64_t)(uintptr_t)arg;
	uint8_t token[TIERFS_TOKEN_LEN];
	struct token_grant got;

	for (uint64_t i = first; i < first + 200; i++) {
		token_issue(table, grant(i), token);
		if (token_redeem(table, token, &got) != 0 || got.ino != i ||
		    token_redeem(table, token, &got) != -EACCES)
			return (void *)1;
	}
	return NULL;
}

START_TEST(threads)
{
	pthread_t thread[4];
	void *failed;

	for (uintptr_t i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, issue_and_redeem, (void *)(i * 1000)), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(thread[i], &failed);
		ck_assert_ptr_null(failed);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("token");
	TCase *tcase = tcase_create("token");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, accepted_once);
	tcase_add_test(tcase, never_issued);
	tcase_add_test(tcase, the_oldest_are_dropped);
	tcase_add_test(tcase, threads);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
