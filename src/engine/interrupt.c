#include "engine/interrupt.h"

#include <stddef.h>

static _Thread_local interrupted_fn *interrupted_by;
static _Thread_local void *interrupted_arg;

void interrupt_on(interrupted_fn *fn, void *arg)
{
	interrupted_by = fn;
	interrupted_arg = arg;
}

bool interrupted(void)
{
	return interrupted_by && interrupted_by(interrupted_arg);
}
