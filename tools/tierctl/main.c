/* main.c - the table of subcommands, and dispatch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tierctl.h"

const struct command commands[] = {
	{ "list", list_run, "", ARGS_JSON | ARGS_BYTES, "List the tierfs mounts of this machine." },
	{ "ls", ls_run, "[PATH]", ARGS_JSON | ARGS_BYTES,
	  "List RAM files, where their memory is, and what moved. Without PATH, those of all mounts; a directory\n"
	  "stands for what is below it. An ordinary user sees the files that are his. A file that lost memory when\n"
	  "the machine went down is marked \"lost\"." },
	{ "stat", stat_run, "PATH...", ARGS_JSON | ARGS_BYTES,
	  "Show all figures of a RAM file or of a mount. For a mount (PATH is its mount point) they are summed, and\n"
	  "those of the store are added." },
	{ "map", map_run, "FILE", ARGS_JSON | ARGS_BYTES | ARGS_RANGE,
	  "Show which parts of a RAM file are resident, cold, or holes. Each run has its generation (scans since it\n"
	  "was in use) and its tier (how often it came back soon after a demotion)." },
	{ "demote", demote_run, "PATH...", ARGS_JSON | ARGS_BYTES | ARGS_RANGE,
	  "Move idle blocks to the cold store. What is in use stays: blocks of a file that is mapped are watched for\n"
	  "min_idle first. A mount point stands for all files of the mount." },
	{ "promote", promote_run, "PATH...", ARGS_JSON | ARGS_BYTES | ARGS_RANGE,
	  "Bring cold blocks back to DRAM, as long as the budget has room." },
	{ "pin", pin_run, "FILE...", ARGS_JSON | ARGS_BYTES | ARGS_RANGE | ARGS_OFF,
	  "Keep blocks from being demoted (or not any more, --off). Needed for memory that devices reach on\n"
	  "their own (VFIO, RDMA)." },
	{ "snapshot", snapshot_run, "FILE NAME", ARGS_JSON | ARGS_BYTES,
	  "Keep what a RAM file has now, as a file that is only read. Cold blocks are shared with it and not touched,\n"
	  "resident ones are stored and stay where they are. A machine that uses FILE must be paused for a content\n"
	  "of one moment. A NAME without a slash lies beside FILE." },
	{ "clone", clone_run, "FILE NEWFILE", ARGS_JSON | ARGS_BYTES,
	  "Make a RAM file with the content of another one, or of a snapshot. All of it begins cold, shared in the "
	  "store;\n"
	  "what is written to one does not show in the other. A NEWFILE without a slash lies beside FILE." },
	{ "copy", copy_run, "SOURCE DESTINATION", ARGS_JSON | ARGS_BYTES | ARGS_DEPTH,
	  "Copy a file with O_DIRECT, many requests at a time, holes staying holes. Reading a RAM file this way "
	  "leaves\n"
	  "cold blocks cold; writing one puts its content into the cold store." },
	{ "access", access_run, "read FILE [OUT] | write FILE IN", ARGS_JSON | ARGS_BYTES | ARGS_RANGE,
	  "Read or write the cold blocks of a RAM file where they are, and say for each what became of it: READ_OK,\n"
	  "WRITE_OK, RESIDENT (in DRAM, left alone), HOLE, BUSY (on its way, left alone) or ERROR. The range begins "
	  "at\n"
	  "the start of OUT or IN, and is made of whole blocks. Without OUT nothing is read but where blocks are." },
	{ "hotness", hotness_run, "export FILE OUT | import FILE IN | show FILE", ARGS_JSON | ARGS_BYTES | ARGS_COMPARE,
	  "Write the age of every block to a file, give blocks the ages of such a file, or show them. None of it "
	  "moves\n"
	  "or touches memory. OUT and IN may be -. A file may be imported where blocks or the RAM file have another\n"
	  "size. What is shown may be a RAM file or a file that was exported." },
	{ "wss", wss_run, "PATH...", ARGS_JSON | ARGS_BYTES | ARGS_PACE,
	  "Estimate the working set of the last 1, 5 and 15 minutes, and the smallest budget with which not more than\n"
	  "--rate blocks a second would come back, from the ages of all blocks. PATH is a RAM file, one that was\n"
	  "exported, or a mount point, which stands for its files. tierctl(1) says how far to trust it." },
	{ "set", set_run, "MOUNTPOINT OPTION=VALUE...", ARGS_JSON,
	  "Change options of a mount. These can be: dram, min_idle. Only root may." },
	{ "get", get_run, "MOUNTPOINT [OPTION...]", ARGS_JSON, "Show options of a mount." },
	{ "run", run_run, "[--] COMMAND [ARGUMENT...]", ARGS_COMMAND,
	  "Run a program whose mappings of RAM files are attached. They are as fast as shared memory then. The "
	  "program\n"
	  "must be dynamically linked. With --require, what would not be tiered is refused. With --plain, any\n"
	  "program, whose mappings are plain, in a memory cgroup: the kernel chooses which of its pages leave DRAM.\n"
	  "Its limit is for all memory of the program." },
	{ "send", send_run, "FILE", ARGS_JSON | ARGS_SEND | ARGS_LIVE | ARGS_CHANNEL,
	  "Send a RAM file as a stream. Cold blocks go as they lie in the store, with their age; nothing is promoted.\n"
	  "Over a connection that goes both ways (--connect, --listen, --via), or with --since, only what the "
	  "receiver\n"
	  "does not have is sent." },
	{ "recv", recv_run, "FILE", ARGS_JSON | ARGS_RECV | ARGS_CHANNEL,
	  "Receive a RAM file. It is put together in FILE.partial, which takes its name at the end; after a failure\n"
	  "FILE.partial stays, and the next transfer goes on from it." },
	{ "migrate", migrate_run, "FILE", ARGS_JSON | ARGS_MIGRATE | ARGS_LIVE | ARGS_CHANNEL,
	  "Move a running QEMU whose memory is FILE to another mount. QEMU moves the state of its devices, a stream "
	  "the\n"
	  "memory: cold blocks first, then resident ones, then in rounds what changed; then the machine stops, and "
	  "goes\n"
	  "on at the target. With --post-copy cold blocks come last, while it runs there. With --dry-run: how many "
	  "bytes "
	  "and\n"
	  "how long, at --rate or 100M a second." },
	{ "stamp", stamp_run, "FILE", ARGS_JSON,
	  "Write the list of the hashes of all blocks of a RAM file, for send --since." },
	{ "upgrade", upgrade_run, "MOUNTPOINT", 0,
	  "Replace the daemon of a mount with the program that is installed now. Nothing is unmounted: programs that "
	  "use\n"
	  "its files pause for a moment. Only root may." },
	{ "doctor", doctor_run, "[MOUNTPOINT]", ARGS_JSON,
	  "Look at this host for what tierfs works worse with, or not at all. One line each says what was found, what "
	  "it\n"
	  "means, and what to set. Nothing is changed. With MOUNTPOINT, that mount alone is looked at too; else all." },
	{ NULL, NULL, NULL, 0, NULL },
};

static int help(void)
{
	printf("Usage: tierctl COMMAND [OPTION...] [ARGUMENT...]\n\n"
	       "Looks at and moves the memory of virtual machines in tierfs mounts.\n\nCommands:\n");
	for (const struct command *command = commands; command->name; command++) {
		const char *dot = strchr(command->help, '.');

		printf("  %-8s %.*s\n", command->name, (int)(dot ? dot - command->help : 0), command->help);
	}
	printf("\n'tierctl COMMAND --help' says more; so does tierctl(1).\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return fail(NULL, "a command is missing", "'tierctl --help' lists them");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
		return help();
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("tierctl %s\n", TIERFS_VERSION);
		return 0;
	}
	for (const struct command *command = commands; command->name; command++)
		if (!strcmp(command->name, argv[1]))
			return command->run(command, argc - 1, argv + 1);
	return fail(argv[1], "no such command", "'tierctl --help' lists them");
}
