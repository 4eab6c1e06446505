/* Identities are a format: they lie in stores and lists, so what they are of some content may never change. And each
 * depends on all of the content and on all of the secret. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cold/mac.h"
#include "lib_check.h"

#define BLOCK 16384U

static uint8_t content[BLOCK], key[MAC_KEY_BYTES];
static struct mac *mac;

static void setup(void)
{
	for (size_t i = 0; i < sizeof(content); i++)
		content[i] = (uint8_t)(i * 7 + (i >> 8));
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)i;
	mac = NULL;
}

static void teardown(void)
{
	mac_free(mac);
}

static struct tierfs_ident of(enum mac_kind kind, const void *plain, size_t length)
{
	mac_free(mac);
	mac = NULL;
	ck_assert_int_eq(mac_new(kind, key, &mac), 0);
	return mac_of(mac, plain, length);
}

static void expect_bytes(struct tierfs_ident ident, const char *want)
{
	uint8_t bytes[IDENT_BYTES];
	char text[2 * IDENT_BYTES + 1];

	ident_put(ident, bytes);
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	ck_assert_str_eq(text, want);
}

/* What other programs make of the same: openssl mac GMAC, openssl enc aes-128-ecb, openssl mac BLAKE2BMAC. */
START_TEST(they_never_change)
{
	expect_bytes(of(MAC_POOL, content, BLOCK), "0a3146f20780f40f654b324c89812773");
	expect_bytes(of(MAC_POOL, content, 4096), "97417d5756db29356b4a84818978c2f3");
	expect_bytes(of(MAC_LIST, content, BLOCK), "de88c7ffde5c5f364063840e0549d7aa");
}
END_TEST

START_TEST(every_byte_counts)
{
	struct tierfs_ident whole = of(_i, content, BLOCK);

	for (size_t at = 0; at < BLOCK; at += at < 64 || at >= BLOCK - 64 ? 1 : 61) {
		content[at] ^= 0x40;
		ck_assert(!ident_same(whole, mac_of(mac, content, BLOCK)));
		content[at] ^= 0x40;
	}
	ck_assert(ident_same(whole, mac_of(mac, content, BLOCK)));
	ck_assert(!ident_same(whole, mac_of(mac, content, BLOCK - 1)));
	for (size_t at = 0; at < sizeof(key); at++) {
		key[at] ^= 1;
		ck_assert(!ident_same(whole, of(_i, content, BLOCK)));
		key[at] ^= 1;
	}
	ck_assert(ident_same(whole, of(_i, content, BLOCK)));
}
END_TEST

/* With one nonce, what GMAC makes of three contents adds up to what it makes of their sum. Of identities that must not
 * show: it would tell the secret. */
START_TEST(sums_do_not_show)
{
	static uint8_t a[BLOCK], b[BLOCK], c[BLOCK];
	struct tierfs_ident sum[4];

	for (size_t i = 0; i < BLOCK; i++) {
		a[i] = (uint8_t)(i * 3);
		b[i] = (uint8_t)(i * 5 + 1);
		c[i] = content[i] ^ a[i] ^ b[i];
	}
	sum[0] = of(MAC_POOL, a, BLOCK);
	sum[1] = mac_of(mac, b, BLOCK);
	sum[2] = mac_of(mac, c, BLOCK);
	sum[3] = mac_of(mac, content, BLOCK);
	ck_assert(sum[0].word[0] ^ sum[1].word[0] ^ sum[2].word[0] ^ sum[3].word[0]);
	ck_assert(sum[0].word[1] ^ sum[1].word[1] ^ sum[2].word[1] ^ sum[3].word[1]);
}
END_TEST

START_TEST(what_is_not_known_equals_nothing)
{
	struct tierfs_ident ident = of(MAC_POOL, content, BLOCK);

	ck_assert(ident_known(ident));
	ck_assert(ident_same(ident, ident));
	ck_assert(!ident_known(IDENT_NONE));
	ck_assert(!ident_same(IDENT_NONE, IDENT_NONE));
	ck_assert(ident_equal(IDENT_NONE, IDENT_NONE));
	mac_free(NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("mac");
	TCase *tests = tcase_create("mac");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, they_never_change);
	tcase_add_loop_test(tests, every_byte_counts, MAC_POOL, MAC_LIST + 1);
	tcase_add_test(tests, sums_do_not_show);
	tcase_add_test(tests, what_is_not_known_equals_nothing);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
