/* Namespace records: the first byte is the length of the key, then the key, then the value. */
#include <stdint.h>
#include <string.h>

#include "names/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[NAME_MAX + 1];
	struct record_inode inode;
	struct record_day day;
	struct share share;
	uint64_t ino, parent;
	uint32_t session;
	uint16_t slot;
	bool many;
	size_t key_len;

	if (!size)
		return 0;
	key_len = data[0];
	data++;
	size--;
	if (key_len > size)
		key_len = size;
	record_parse_inode(data, key_len, data + key_len, size - key_len, &ino, &inode);
	if (!record_parse_entry(data, key_len, data + key_len, size - key_len, &parent, name, &ino) &&
	    (strlen(name) > NAME_MAX || strchr(name, '/')))
		__builtin_trap();
	record_parse_outcome(data, key_len, data + key_len, size - key_len, &session, &slot, &parent, &ino);
	record_parse_super(data + key_len, size - key_len, &ino, &many);
	record_parse_share(data, key_len, data + key_len, size - key_len, &ino, &share);
	record_parse_day(data, key_len, data + key_len, size - key_len, &ino, &day);
	return 0;
}
