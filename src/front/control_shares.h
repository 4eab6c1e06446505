/* front/control_shares.h - what get, set, stat and ls say of shares (names/shares.h). Values are texts that set takes.
 *
 * On the thread of the request; errors as those of control_request.h.
 */
#pragma once

#include "front/control_request.h"
#include "names/share.h"

/* Adds what is set for what the request is about, and what holds for it, as the objects "shares" and "effective": of
 * one key, or of all of them (only is NULL); as "defaults" the names of those that came with the file, and as "usage"
 * what is used of bounds of the store. Takes the object in every case. */
int control_shares_tell(struct control_request *request, const enum share_id *only, json_t *object, json_t **ret);
/* All of the object of texts, or nothing. */
int control_shares_set(struct control_request *request, json_t *shares, json_t **ret);
/* The keys that a file has in stat and ls. */
void control_shares_figures(const struct control_request *request, uint64_t ino, json_t *object);
