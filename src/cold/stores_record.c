/* cold/stores_record.c - what the pool knows of its devices, and where files are: records in the metadata of device 0.
 * docs/format/store.md, "Several stores".
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "cold/stores_state.h"

#define VERSION 1
#define PREFIX_NAME 'N'
#define PREFIX_PLACE 'W'
#define NAME_KEY_BYTES 2
#define NAME_VALUE_BYTES (2 + STORES_TOKEN_BYTES + STORES_NAME_MAX)
#define FLAG_UP 1U

static uint64_t key_number(const uint8_t *at)
{
	uint64_t number;

	memcpy(&number, at, sizeof(number));
	return be64toh(number);
}

static void place_key(uint64_t ino, uint8_t key[static STORES_KEY_BYTES])
{
	uint64_t number = htobe64(ino);

	key[0] = PREFIX_PLACE;
	memcpy(key + 1, &number, sizeof(number));
}

static void place_value(const struct layout *layout, uint8_t value[static STORES_PLACE_BYTES])
{
	uint64_t mark = htole64(layout->mark);

	memset(value, 0, STORES_PLACE_BYTES);
	value[0] = VERSION;
	value[1] = layout->low;
	value[2] = layout->high;
	value[3] = layout->up ? FLAG_UP : 0;
	memcpy(value + 8, &mark, sizeof(mark));
}

void stores_new_record(uint64_t ino, unsigned int index, uint8_t key[static STORES_KEY_BYTES],
		       uint8_t value[static STORES_PLACE_BYTES])
{
	struct layout layout = { .low = (uint8_t)index, .high = (uint8_t)index, .up = true };

	place_key(ino, key);
	place_value(&layout, value);
}

int stores_record_put(struct stores *stores, uint64_t ino, const struct layout *layout, bool durable)
{
	struct store *first = stores->device[0].store;
	uint8_t key[STORES_KEY_BYTES], value[STORES_PLACE_BYTES];
	struct meta_change change = { .key = key, .key_len = sizeof(key) };

	place_key(ino, key);
	place_value(layout, value);
	if (layout->low || layout->high) {
		change.value = value;
		change.value_len = sizeof(value);
	}
	return first->meta->put(first, &change, 1, durable);
}

int stores_record_name(struct stores *stores, unsigned int index)
{
	struct store *first = stores->device[0].store;
	const struct device *device = &stores->device[index];
	uint8_t key[NAME_KEY_BYTES] = { PREFIX_NAME, (uint8_t)index }, value[NAME_VALUE_BYTES] = { VERSION };
	size_t length = strlen(device->name);
	struct meta_change change = { key, sizeof(key), value, 2 + STORES_TOKEN_BYTES + length };

	memcpy(value + 2, device->token, STORES_TOKEN_BYTES);
	memcpy(value + 2 + STORES_TOKEN_BYTES, device->name, length);
	return first->meta->put(first, &change, 1, true);
}

bool stores_name_valid(const char *name)
{
	size_t length = strlen(name);

	return length && length <= STORES_NAME_MAX && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == length;
}

static int load_name(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct stores *stores = arg;
	const uint8_t *k = key, *v = value;
	struct device *device;

	if (!value_len || key_len != NAME_KEY_BYTES)
		return -EBADMSG;
	if (v[0] != VERSION)
		return -EPROTONOSUPPORT;
	if (value_len <= 2 + STORES_TOKEN_BYTES || value_len > NAME_VALUE_BYTES || k[1] != stores->count ||
	    k[1] >= STORES_MAX)
		return -EBADMSG;
	device = &stores->device[k[1]];
	memcpy(device->token, v + 2, STORES_TOKEN_BYTES);
	memcpy(device->name, v + 2 + STORES_TOKEN_BYTES, value_len - 2 - STORES_TOKEN_BYTES);
	if (!stores_name_valid(device->name))
		return -EBADMSG;
	stores->count++;
	return 0;
}

static int load_place(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct stores *stores = arg;
	const uint8_t *k = key, *v = value;
	struct home *home;
	uint64_t mark;

	if (!value_len || key_len != STORES_KEY_BYTES)
		return -EBADMSG;
	if (v[0] != VERSION)
		return -EPROTONOSUPPORT;
	if (value_len != STORES_PLACE_BYTES || v[1] >= stores->count || v[2] >= stores->count)
		return -EBADMSG;
	home = home_make(stores, key_number(k + 1));
	if (!home)
		return -ENOMEM;
	memcpy(&mark, v + 8, sizeof(mark));
	home->layout = (struct layout){ .low = v[1], .high = v[2], .up = v[3] & FLAG_UP, .mark = le64toh(mark) };
	home->want = home->layout.up ? home->layout.low : home->layout.high;
	home->recorded = true;
	queue_push(&stores->queue, home, 0);
	return 0;
}

int stores_record_load(struct stores *stores)
{
	static const char name = PREFIX_NAME, place = PREFIX_PLACE;
	struct store *first = stores->device[0].store;
	int err = first->meta->walk(first, &name, 1, load_name, stores);

	return err ? err : first->meta->walk(first, &place, 1, load_place, stores);
}
