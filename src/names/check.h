/* names/check.h - what is loaded makes one tree.
 *
 * For the files of names/ alone, while nobody else has the namespace.
 */
#pragma once

struct ns;

/* Link counts that differ are put right, and what has neither a name nor content becomes an orphan; both are told, and
 * saved with the next change. -EBADMSG: damaged. */
int check_tree(const struct ns *ns);
