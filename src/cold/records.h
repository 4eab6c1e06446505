/* cold/records.h - records of values in the database, and the table of places that is built from them.
 *
 * The store's commit mutex is held for all of these, or nobody else has the store yet. 0 or -errno.
 */
#pragma once

#include "cold/store_state.h"

/* Versions of the index. */
#define RECORDS_FORMAT_FIRST 1U  /* every value has one record */
#define RECORDS_FORMAT_SHARED 2U /* records may name the values of other files */
#define RECORDS_FORMAT 3U        /* heads of records are longer: they have identities (index.h) */

/* Looks which version the index has, and gives a new one the present one. -EPROTONOSUPPORT: an unknown one. */
int records_open(struct store_rocks *store);
/* Builds the table of places. */
int records_load(struct store_rocks *store);
/* From now on nobody knows what the database kept, for this reason (-errno). */
void records_doubt(struct store_rocks *store, int err);
/* Before a look at the table that a change rests on: reopens a database that is doubtful. Fails while that cannot be
 * done, and within a second after an attempt. */
int records_make_sure(struct store_rocks *store);
/* Writes records, after an error once more behind a reopen: -EAGAIN then says that the table was rebuilt and the caller
 * must look again. */
int records_write(struct store_rocks *store, const struct rocks_change *changes, size_t count, bool durable);
/* Before records are written: a program that knows earlier formats alone will not take them for damage. */
int records_upgrade(struct store_rocks *store);
