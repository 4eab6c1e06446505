/* lib/lib_ident.c - see lib_ident.h. */
#include "lib/lib_ident.h"

#include <stdlib.h>

#include "cold/mac.h"

struct tierfs_ident ident_of(const void *plain, size_t length_bytes)
{
	static const uint8_t secret[MAC_KEY_BYTES];
	struct tierfs_ident ident;
	struct mac *mac;

	if (mac_new(MAC_POOL, secret, &mac) < 0)
		abort();
	ident = mac_of(mac, plain, length_bytes);
	mac_free(mac);
	return ident;
}

struct tierfs_ident ident_from(uint64_t number)
{
	return (struct tierfs_ident){ { number, ~number } };
}
