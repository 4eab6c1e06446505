/* unit/test_figures.c - the table of figures: sums, and that docs/format/control.md has every name. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front/figures.h"
#include "lib_check.h"

static const struct figures *const tables[] = { &figures_of_file, &figures_of_mount, &figures_of_store };

START_TEST(several_files_add_up)
{
	struct ramfile_figures sum = { .block_bytes = 16384 };
	struct ramfile_figures one = {
		.size_bytes = 5, .block_bytes = 16384, .fault_p99_ns = 70, .errors = 1, .mappers = 2
	};
	struct ramfile_figures two = { .size_bytes = 7, .block_bytes = 16384, .fault_p99_ns = 30, .fault_p50_ns = 3 };

	figures_add(&figures_of_file, &sum, &one);
	figures_add(&figures_of_file, &sum, &two);
	ck_assert_uint_eq(sum.size_bytes, 12);
	ck_assert_uint_eq(sum.block_bytes, 16384);
	ck_assert_uint_eq(sum.mappers, 2);
	ck_assert_uint_eq(sum.errors, 1);
	ck_assert_uint_eq(sum.fault_p99_ns, 70);
	ck_assert_uint_eq(sum.fault_p50_ns, 3);
}
END_TEST

START_TEST(names_are_said_once)
{
	for (size_t t = 0; t < 3; t++)
		for (size_t i = 0; i < tables[t]->count; i++)
			for (size_t k = 0; k < i; k++)
				ck_assert_str_ne(tables[t]->figure[i].name, tables[t]->figure[k].name);
}
END_TEST

START_TEST(units_are_in_the_names)
{
	static const char *const ends[] = { "_bytes", "", "", "_ns", "" };

	for (size_t t = 0; t < 3; t++)
		for (size_t i = 0; i < tables[t]->count; i++) {
			const struct figure *figure = &tables[t]->figure[i];
			size_t length = strlen(figure->name), end = strlen(ends[figure->unit]);

			ck_assert_uint_ge(length, end);
			ck_assert_str_eq(figure->name + length - end, ends[figure->unit]);
			ck_assert_uint_gt(strlen(figure->help), 0);
		}
}
END_TEST

START_TEST(json_has_a_part_of_them_in_order)
{
	struct store_figures values = { .disk_bytes = 1, .full = true };
	json_t *object = json_object();
	void *at;

	figures_json(&figures_of_store, &values, 0, 2, object);
	ck_assert_uint_eq(json_object_size(object), 2);
	figures_json(&figures_of_store, &values, 2, SIZE_MAX, object);
	ck_assert_uint_eq(json_object_size(object), figures_of_store.count);
	ck_assert(json_is_true(json_object_get(object, "full")));
	ck_assert_int_eq(json_integer_value(json_object_get(object, "disk_bytes")), 1);
	at = json_object_iter(object);
	for (size_t i = 0; i < figures_of_store.count; i++, at = json_object_iter_next(object, at))
		ck_assert_str_eq(json_object_iter_key(at), figures_of_store.figure[i].name);
	json_decref(object);
}
END_TEST

START_TEST(the_format_document_has_every_name)
{
	static char text[1 << 20];
	char path[4096], name[80];
	const char *source = getenv("TIERFS_SRC");
	size_t length;
	FILE *file;

	snprintf(path, sizeof(path), "%s/docs/format/control.md", source ? source : ".");
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	length = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[length] = '\0';
	for (size_t t = 0; t < 3; t++)
		for (size_t i = 0; i < tables[t]->count; i++) {
			snprintf(name, sizeof(name), "`%s`", tables[t]->figure[i].name);
			ck_assert_msg(strstr(text, name), "docs/format/control.md does not have %s", name);
		}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("figures");
	TCase *tests = tcase_create("figures");

	tcase_add_test(tests, several_files_add_up);
	tcase_add_test(tests, names_are_said_once);
	tcase_add_test(tests, units_are_in_the_names);
	tcase_add_test(tests, json_has_a_part_of_them_in_order);
	tcase_add_test(tests, the_format_document_has_every_name);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
