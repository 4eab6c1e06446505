/* front/figures.h - every figure that the daemon tells of a file, of the mount and of the store: its name, what it
 * counts, and how those of several files add up. Who prints figures goes through a table.
 *
 * The names are those of docs/format/control.md. Thread-safety: all functions.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "cold/store.h"
#include "engine/ramfile.h"
#include "policy/tiering.h"

/* Of several files: their sum; the largest (percentiles cannot be added); or what all of them have alike. */
enum figure_kind { FIGURE_SUM, FIGURE_WORST, FIGURE_ALIKE };
enum figure_unit { FIGURE_BYTES, FIGURE_BLOCKS, FIGURE_COUNT, FIGURE_NS, FIGURE_FLAG };

struct figure {
	const char *name;
	enum figure_kind kind;
	enum figure_unit unit; /* a flag is a bool, all others are uint64_t */
	size_t offset;         /* in the struct that the table is of */
	bool grows;            /* it never becomes less while the daemon runs */
	const char *help;      /* a sentence without its stop */
};

struct figures {
	const struct figure *figure;
	size_t count;
};

/* Of the mount as a whole, beside the sum over its files. */
struct figures_mount {
	struct tiering_figures engine;
	uint64_t min_idle_ns;
	uint64_t files, lost_files, fell_back_files;
	uint64_t fill_bytes, refused_fills, write_back_bytes;
};

extern const struct figures figures_of_file;  /* struct ramfile_figures */
extern const struct figures figures_of_mount; /* struct figures_mount */
extern const struct figures figures_of_store; /* struct store_figures */

/* Adds a file's to a sum, each by its kind. */
void figures_add(const struct figures *table, void *sum, const void *values);
/* One of them, a flag as 0 or 1. */
uint64_t figures_value(const struct figure *figure, const void *values);
/* Appends them to the object in the order of the table, from index first on, at most count. */
void figures_json(const struct figures *table, const void *values, size_t first, size_t count, json_t *object);
