/* Mount options: parsing, limits, text; and that the man page lists the same ones. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "front/options.h"
#include "lib_check.h"

static struct options options;

/* Messages are checked on the real program; here they would only be noise. */
static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
	options_init(&options);
}

/* As one would type it. */
static void give(int id, uint64_t value)
{
	const struct option_spec *spec = &option_table[id];
	char text[128], out[64];

	options.value[id] = value;
	options.given[id] = true;
	ck_assert_int_eq(options_format(&options, spec->name, out, sizeof(out)), 0);
	options.value[id] = ~value;
	snprintf(text, sizeof(text), spec->kind == OPTION_KIND_FLAG ? "%s" : "%s=%s", spec->name, out);
	ck_assert_msg(options_parse(&options, text) == 0, "%s", text);
	ck_assert_uint_eq(options.value[id], value);
}

static void refuse(const struct option_spec *spec, uint64_t value)
{
	char text[128];

	if (spec->kind == OPTION_KIND_DURATION)
		snprintf(text, sizeof(text), "%s=%.9f", spec->name, (double)value / 1e9);
	else
		snprintf(text, sizeof(text), spec->kind == OPTION_KIND_OCTAL ? "%s=%" PRIo64 : "%s=%" PRIu64,
			 spec->name, value);
	ck_assert_msg(options_parse(&options, text) == -EINVAL, "%s", text);
}

START_TEST(values_of_every_kind)
{
	ck_assert_int_eq(options_parse(&options, "dram=1.5G,block=64K,level=3,map=plain,min_idle=0.5"), 0);
	ck_assert_int_eq(options_parse(&options, "allow_other,uid=7,gid=8,mode=0640,warm=0"), 0);
	for (int i = OPTION_MODE + 1; i < OPTION_COUNT; i++)
		give(i, option_table[i].max);
	ck_assert_int_eq(options_finish(&options), 0);
	ck_assert_uint_eq(options.value[OPTION_DRAM], UINT64_C(3) << 29);
	ck_assert_uint_eq(options.value[OPTION_BLOCK], 65536);
	ck_assert_uint_eq(options.value[OPTION_LEVEL], 3);
	ck_assert_uint_eq(options.value[OPTION_MAP], OPTION_MAP_PLAIN);
	ck_assert_uint_eq(options.value[OPTION_MIN_IDLE], 500000000);
	ck_assert_uint_eq(options.value[OPTION_ALLOW_OTHER], 1);
	ck_assert_uint_eq(options.value[OPTION_UID], 7);
	ck_assert_uint_eq(options.value[OPTION_GID], 8);
	ck_assert_uint_eq(options.value[OPTION_MODE], 0640);
	for (int i = 0; i < OPTION_COUNT; i++)
		ck_assert_msg(options.given[i], "%s", option_table[i].name);
}
END_TEST

START_TEST(defaults)
{
	ck_assert_int_eq(options_finish(&options), -EINVAL);
	ck_assert_int_eq(options_parse(&options, "dram=1M"), 0);
	ck_assert_int_eq(options_finish(&options), 0);
	ck_assert_uint_eq(options.value[OPTION_BLOCK], 16384);
	ck_assert_uint_eq(options.value[OPTION_LEVEL], 1);
	ck_assert_uint_eq(options.value[OPTION_MIN_IDLE], 0);
	ck_assert_uint_eq(options.value[OPTION_MODE], 0600);
	ck_assert(!options.given[OPTION_UID]);
}
END_TEST

START_TEST(warm_is_less_than_half_of_dram)
{
	ck_assert_int_eq(options_parse(&options, "dram=64M,warm=32M"), 0);
	ck_assert_int_eq(options_finish(&options), -EINVAL);
	ck_assert_int_eq(options_parse(&options, "warm=31M"), 0);
	ck_assert_int_eq(options_finish(&options), 0);
	ck_assert_uint_eq(options.value[OPTION_LEVEL], 0);
	ck_assert_int_eq(options_parse(&options, "warm=4M,dram=8M"), 0);
	ck_assert_int_eq(options_finish(&options), -EINVAL);
	ck_assert_int_eq(options_parse(&options, "warm=0"), 0);
	ck_assert_int_eq(options_finish(&options), 0);
}
END_TEST

/* Of each row: what it takes at both ends, and that one more or less is refused. A new row needs nothing here. */
START_TEST(every_row_keeps_its_limits)
{
	const struct option_spec *spec = &option_table[_i];
	const uint64_t ends[] = { spec->min, spec->max == INT64_MAX ? UINT64_C(1) << 62 : spec->max };

	ck_assert_msg(spec->help && *spec->help, "%s", spec->name);
	for (int i = 0; i < _i; i++)
		ck_assert_str_ne(option_table[i].name, spec->name);
	if (spec->kind == OPTION_KIND_FLAG) {
		give(_i, 1);
		return;
	}
	ck_assert_ptr_nonnull(spec->argument);
	ck_assert(spec->required || (spec->fallback <= spec->max && (spec->fallback >= spec->min || !spec->fallback)));
	for (size_t i = 0; i < 2; i++)
		give(_i, ends[i]);
	if (spec->kind == OPTION_KIND_CHOICE)
		ck_assert_ptr_null(spec->choices[spec->max + 1]);
	else if (spec->max != INT64_MAX)
		refuse(spec, spec->max + 1);
	if (spec->min)
		refuse(spec, spec->min - 1);
	if (spec->min_if_any)
		refuse(spec, spec->min_if_any - 1);
}
END_TEST

START_TEST(the_last_one_wins)
{
	ck_assert_int_eq(options_parse(&options, "dram=1M,dram=2M"), 0);
	ck_assert_int_eq(options_parse(&options, "dram=3M"), 0);
	ck_assert_uint_eq(options.value[OPTION_DRAM], 3 << 20);
}
END_TEST

static const char *const bad[] = {
	"dram",
	"dram=",
	"dram=lots",
	"dram=1023K",
	"dram=1M ",
	" dram=1M",
	"dram =1M",
	"drams=1M",
	"dra=1M",
	"DRAM=1M",
	"dram=99999999999999999999G",
	"block=5K",
	"block=2K",
	"block=128K",
	"level=-1",
	"level=1.5",
	"level=20",
	"level=0x1",
	"level=",
	"map=attach",
	"map=",
	"min_idle=-1",
	"min_idle=0.01",
	"min_idle=2d",
	"warm=1",
	"allow_other=1",
	"uid=4294967295",
	"uid=18446744073709551616",
	"uid=me",
	"mode=8",
	"mode=1000",
	"ro",
	"rw=1",
	"commentary",
	"unheard_of",
	"=",
	"=1",
};

START_TEST(bad_ones_are_refused)
{
	struct options before = options;

	ck_assert_msg(options_parse(&options, bad[_i]) == -EINVAL, "%s", bad[_i]);
	ck_assert(memcmp(&before, &options, sizeof(options)) == 0);
}
END_TEST

START_TEST(sloppy_ignores_unknown_ones_alone)
{
	options.sloppy = true;
	ck_assert_int_eq(options_parse(&options, "unheard_of=3,dram=1M,other"), 0);
	ck_assert_uint_eq(options.value[OPTION_DRAM], 1 << 20);
	ck_assert_int_eq(options_parse(&options, "ro"), -EINVAL);
	ck_assert_int_eq(options_parse(&options, "dram=x"), -EINVAL);
}
END_TEST

START_TEST(generic_ones_have_no_effect)
{
	struct options before = options;

	ck_assert_int_eq(options_parse(&options, "rw,,defaults,noauto,nofail,_netdev,user,nodev,suid,exec,noatime"), 0);
	ck_assert_int_eq(options_parse(&options, ",x-systemd.device-timeout=3,X-mount.mkdir,comment=a=b,"), 0);
	ck_assert_int_eq(options_parse(&options, ""), 0);
	ck_assert(memcmp(&before, &options, sizeof(options)) == 0);
}
END_TEST

START_TEST(text_is_what_one_would_type)
{
	static const char *const typed[][2] = {
		{ "dram", "1536M" },    { "dram", "1048577" }, { "block", "4K" },
		{ "level", "12" },      { "map", "auto" },     { "uid", "0" },
		{ "min_idle", "0.25" }, { "mode", "0044" },    { "min_idle", "30" },
	};
	char buf[64], option[128];

	for (size_t i = 0; i < sizeof(typed) / sizeof(typed[0]); i++) {
		snprintf(option, sizeof(option), "%s=%s", typed[i][0], typed[i][1]);
		ck_assert_int_eq(options_parse(&options, option), 0);
		ck_assert_int_eq(options_format(&options, typed[i][0], buf, sizeof(buf)), 0);
		ck_assert_str_eq(buf, typed[i][1]);
	}
	ck_assert_int_eq(options_format(&options, "gid", buf, sizeof(buf)), 0);
	ck_assert_str_eq(buf, "");
	ck_assert_int_eq(options_format(&options, "nothing", buf, sizeof(buf)), -ENOENT);
	ck_assert_int_eq(options_format(&options, "map", buf, 4), -ENOBUFS);
	ck_assert_int_eq(options_format(&options, "map", buf, 5), 0);
}
END_TEST

START_TEST(stores_have_names)
{
	static const char *const wrong[] = { "store.=/a", "store.A=/a",  "store.a",          "store.a=",
					     "store.a=b", "store.a.b=/", "store.default=/a", NULL };
	static const char *const good[] = { "store.slow=/a/b", "store.0-_z=/c", "store.slow=/later" };
	char buf[64];

	for (int i = 0; wrong[i]; i++) {
		options_init(&options);
		ck_assert_int_eq(options_parse(&options, wrong[i]), -EINVAL);
		ck_assert_uint_eq(options.store_count, 0);
	}
	options_init(&options);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(options_parse(&options, good[i]), 0);
	ck_assert_uint_eq(options.store_count, 2);
	ck_assert_str_eq(options_store_name(&options.store[1]), "0-_z");
	ck_assert_int_eq(options_format(&options, "store.slow", buf, sizeof(buf)), 0);
	ck_assert_str_eq(buf, "/later");
	ck_assert_int_eq(options_format(&options, "store.slow", buf, 6), -ENOBUFS);
	ck_assert_int_eq(options_format(&options, "store.none", buf, sizeof(buf)), -ENOENT);
	ck_assert_str_eq(options_name(&options, OPTION_COUNT + 1), "store.0-_z");
	ck_assert_ptr_null(options_name(&options, OPTION_COUNT + 2));
	for (unsigned int i = 2; i < OPTION_STORES_MAX; i++) {
		snprintf(buf, sizeof(buf), "store.s%u=/d", i);
		ck_assert_int_eq(options_parse(&options, buf), 0);
	}
	ck_assert_int_eq(options_parse(&options, "store.more=/d"), -EINVAL);
	ck_assert_int_eq(options_parse(&options, "dram=1G,warm=63M"), 0);
	ck_assert_int_eq(options_finish(&options), -EINVAL); /* less than 4M for each of 16 */
	ck_assert_int_eq(options_parse(&options, "warm=64M"), 0);
	ck_assert_int_eq(options_finish(&options), 0);
}
END_TEST

/* Every option has its entry in tierfs(8), ".BI name= ARG" or ".B name", and no entry is about nothing. */
START_TEST(man_page_lists_the_same)
{
	const char *src = getenv("TIERFS_SRC");
	char path[512], line[512], name[64];
	bool seen[OPTION_COUNT] = { false }, in_list = false, stores = false;
	FILE *page;

	snprintf(path, sizeof(path), "%s/docs/man/tierfs.8", src ? src : ".");
	page = fopen(path, "re");
	ck_assert_msg(page != NULL, "%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), page)) {
		bool known = false;

		if (line[0] == '.' && line[1] == 'S')
			in_list = strncmp(line, ".SS Mount options", 17) == 0;
		if (!in_list || strcmp(line, ".TP\n") != 0 || !fgets(line, sizeof(line), page))
			continue;
		ck_assert_msg(sscanf(line, ".B%*[I ]%60[a-z_.]", name) == 1, "%s", line);
		for (int i = 0; i < OPTION_COUNT; i++) {
			if (strcmp(option_table[i].name, name) != 0)
				continue;
			known = seen[i] = true;
			if (option_table[i].argument)
				ck_assert_msg(strstr(line, option_table[i].argument) != NULL, "%s", line);
		}
		if (!strcmp(name, "store.")) { /* .BI store. NAME = DIR */
			ck_assert_str_eq(line, ".BI store. NAME = DIR\n");
			known = stores = true;
		}
		ck_assert_msg(known, "the man page has %s, the table has not", name);
	}
	fclose(page);
	ck_assert(stores);
	for (int i = 0; i < OPTION_COUNT; i++)
		ck_assert_msg(seen[i], "the table has %s, the man page has not", option_table[i].name);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("options");
	TCase *tcase = tcase_create("options");

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_test(tcase, values_of_every_kind);
	tcase_add_test(tcase, defaults);
	tcase_add_test(tcase, warm_is_less_than_half_of_dram);
	tcase_add_loop_test(tcase, every_row_keeps_its_limits, 0, OPTION_COUNT);
	tcase_add_test(tcase, the_last_one_wins);
	tcase_add_loop_test(tcase, bad_ones_are_refused, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(tcase, sloppy_ignores_unknown_ones_alone);
	tcase_add_test(tcase, generic_ones_have_no_effect);
	tcase_add_test(tcase, text_is_what_one_would_type);
	tcase_add_test(tcase, stores_have_names);
	tcase_add_test(tcase, man_page_lists_the_same);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
