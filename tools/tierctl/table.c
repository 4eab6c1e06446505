/* table.c - see table.h. The only file that includes <libsmartcols.h>. */
#include "table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <libsmartcols.h>

#include "base/size.h"
#include "tierctl.h"

struct table {
	struct libscols_table *scols;
	struct libscols_line *line;
	size_t column;
	bool bytes;
};

struct table *table_new(const struct table_column *columns, bool bytes)
{
	struct table *table = calloc(1, sizeof(*table));

	if (!table)
		return NULL;
	table->bytes = bytes;
	scols_init_debug(0);
	table->scols = scols_new_table();
	if (!table->scols)
		goto err;
	for (; columns->name; columns++)
		if (!scols_table_new_column(table->scols, columns->name, 0, columns->right ? SCOLS_FL_RIGHT : 0))
			goto err;
	return table;
err:
	table_free(table);
	return NULL;
}

void table_free(struct table *table)
{
	if (!table)
		return;
	scols_unref_table(table->scols);
	free(table);
}

int table_print(struct table *table)
{
	int err = scols_print_table(table->scols);

	table_free(table);
	return err || fflush(stdout) ? fail("output", "cannot print", NULL) : 0;
}

void table_row(struct table *table)
{
	table->line = scols_table_new_line(table->scols, NULL);
	table->column = 0;
}

void table_text(struct table *table, const char *text)
{
	if (table->line)
		scols_line_set_data(table->line, table->column++, text ? text : "-");
}

void table_size(struct table *table, uint64_t bytes)
{
	char text[SIZE_TEXT_LEN];

	if (table->bytes)
		table_number(table, bytes);
	else
		table_text(table, size_format(bytes, text));
}

void table_number(struct table *table, uint64_t number)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, number);
	table_text(table, text);
}

char *table_format_duration(uint64_t ns, char buf[static TABLE_DURATION_LEN])
{
	static const char *const units[] = { "ns", "us", "ms", "s" };
	double value = (double)ns;
	size_t unit = 0;

	while (value >= 1000 && unit < 3) {
		value /= 1000;
		unit++;
	}
	snprintf(buf, TABLE_DURATION_LEN, "%.*f%s", unit && value < 100 ? 1 : 0, value, units[unit]);
	return buf;
}

void table_duration(struct table *table, uint64_t ns)
{
	char text[TABLE_DURATION_LEN];

	table_text(table, ns ? table_format_duration(ns, text) : NULL);
}
