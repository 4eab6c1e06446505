/* table.h - aligned columns for people (libsmartcols). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct table;

#define TABLE_COLUMNS_MAX 20

struct table_column {
	const char *name; /* NULL ends the list */
	bool right;       /* numbers */
};

/* bytes: sizes are printed exactly. NULL: out of memory. */
struct table *table_new(const struct table_column *columns, bool bytes);
/* Prints and frees. Returns the exit status. */
int table_print(struct table *table);
void table_free(struct table *table); /* takes NULL */

/* The next row; cells are filled from left to right by the functions below. */
void table_row(struct table *table);
void table_text(struct table *table, const char *text); /* NULL: "-" */
void table_size(struct table *table, uint64_t bytes);
void table_number(struct table *table, uint64_t number);
void table_duration(struct table *table, uint64_t ns); /* 0: "-" */

/* "12.3us" and the like. */
#define TABLE_DURATION_LEN 24
char *table_format_duration(uint64_t ns, char buf[static TABLE_DURATION_LEN]);
