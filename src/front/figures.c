/* front/figures.c - see figures.h. The order is that of the JSON objects. */
#include "front/figures.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#define FILE_OFFSET(field) offsetof(struct ramfile_figures, field)
static const struct figure of_file[] = {
	{ "size_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(size_bytes), false, "Size of the file" },
	{ "block_bytes", FIGURE_ALIKE, FIGURE_BYTES, FILE_OFFSET(block_bytes), false,
	  "What moves between DRAM and store at once" },
	{ "mappers", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(mappers), false,
	  "Attached mappings, or opens that the kernel may cache" },
	{ "resident_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(resident_bytes), false,
	  "What is in the arena, in the kernel's cache, or in both" },
	{ "cold_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(cold_bytes), false, "What is in the store alone" },
	{ "hole_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(hole_bytes), false,
	  "What was never written, or discarded" },
	{ "stored_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(stored_bytes), false,
	  "What the file would take in the store alone, compressed" },
	{ "pinned_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(pinned_bytes), false,
	  "What is never demoted, by request" },
	{ "promotions", FIGURE_SUM, FIGURE_BLOCKS, FILE_OFFSET(promotions), true, "Blocks that came to DRAM" },
	{ "demotions", FIGURE_SUM, FIGURE_BLOCKS, FILE_OFFSET(demotions), true, "Blocks that left DRAM" },
	{ "clean_demotions", FIGURE_SUM, FIGURE_BLOCKS, FILE_OFFSET(clean_demotions), true,
	  "Of those, blocks that the store had already: nothing was written" },
	{ "demotions_aborted", FIGURE_SUM, FIGURE_BLOCKS, FILE_OFFSET(demotions_aborted), true,
	  "Blocks that were taken back while they were stored" },
	{ "direct_read_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(direct_read_bytes), true, "Read with O_DIRECT" },
	{ "direct_write_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(direct_write_bytes), true,
	  "Written with O_DIRECT" },
	{ "fault_count", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(fault_count), true, "Faults that the daemon served" },
	{ "fault_p50_ns", FIGURE_WORST, FIGURE_NS, FILE_OFFSET(fault_p50_ns), false,
	  "Half of the faults took no longer" },
	{ "fault_p99_ns", FIGURE_WORST, FIGURE_NS, FILE_OFFSET(fault_p99_ns), false,
	  "All but a hundredth of the faults took no longer" },
	{ "errors", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(errors), true, "Blocks that could not be read or stored" },
	{ "arena_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(arena_bytes), false, "DRAM in the arena" },
	{ "cached_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(cached_bytes), false,
	  "Blocks of which the kernel caches pages" },
	{ "huge_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(huge_bytes), false, "Units that may be huge pages" },
	{ "away_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(away_bytes), false,
	  "Content that is on another host, and comes" },
	{ "wanted_blocks", FIGURE_SUM, FIGURE_BLOCKS, FILE_OFFSET(wanted_blocks), false,
	  "Of the blocks that are away, those that somebody waits for" },
	{ "shared_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(shared_bytes), false,
	  "Of what is stored, values that other files have, too" },
	{ "waiting_faults", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(waiting_faults), false, "Faults that wait now" },
	{ "waiting_for_turn", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(waiting_for_turn), false,
	  "Of them, those that wait for a fault worker" },
	{ "waiting_for_room", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(waiting_for_room), false,
	  "Of them, those that wait for room in the budget" },
	{ "waiting_for_limit", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(waiting_for_limit), false,
	  "Of them, those that wait for a limit of the file's own or of its tenant" },
	{ "waiting_for_store", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(waiting_for_store), false,
	  "Of them, those that wait for the store" },
	{ "waiting_for_process", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(waiting_for_process), false,
	  "Of them, those whose process keeps its address space locked" },
	{ "longest_wait_ns", FIGURE_WORST, FIGURE_NS, FILE_OFFSET(longest_wait_ns), false,
	  "How long the oldest of them has waited" },
	{ "limit_waits", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(limit_waits), true,
	  "Faults and calls that waited for a limit of the store" },
	{ "passthrough_mappers", FIGURE_SUM, FIGURE_COUNT, FILE_OFFSET(passthrough_mappers), false,
	  "Of the attached mappings, those whose process has no descriptor of the arena" },
	{ "foreign_bytes", FIGURE_SUM, FIGURE_BYTES, FILE_OFFSET(foreign_bytes), true,
	  "Memory that processes made in the arena unasked, and that was taken away" },
};
const struct figures figures_of_file = { of_file, COUNT_OF(of_file) };

#define MOUNT_OFFSET(field) offsetof(struct figures_mount, field)
static const struct figure of_mount[] = {
	{ "dram_bytes", FIGURE_ALIKE, FIGURE_BYTES, MOUNT_OFFSET(engine.dram_bytes), false, "The budget of blocks" },
	{ "metadata_bytes", FIGURE_ALIKE, FIGURE_BYTES, MOUNT_OFFSET(engine.metadata_bytes), false,
	  "Tables and buffers of the engine" },
	{ "waiting_writes", FIGURE_ALIKE, FIGURE_COUNT, MOUNT_OFFSET(engine.waiting_writes), false,
	  "Write back of plain mappings that waits for room now" },
	{ "waited_faults", FIGURE_ALIKE, FIGURE_COUNT, MOUNT_OFFSET(engine.waited_faults), true,
	  "Faults that had to wait for room" },
	{ "scans", FIGURE_ALIKE, FIGURE_COUNT, MOUNT_OFFSET(engine.scans), true, "Looks for idle blocks" },
	{ "visited_blocks", FIGURE_ALIKE, FIGURE_BLOCKS, MOUNT_OFFSET(engine.visited_blocks), true,
	  "Blocks that the demoter looked at" },
	{ "min_idle_ns", FIGURE_ALIKE, FIGURE_NS, MOUNT_OFFSET(min_idle_ns), false,
	  "How long a block must be idle to be demoted" },
	{ "files", FIGURE_ALIKE, FIGURE_COUNT, MOUNT_OFFSET(files), false, "RAM files" },
	{ "lost_files", FIGURE_ALIKE, FIGURE_COUNT, MOUNT_OFFSET(lost_files), false,
	  "Of them, those that lost memory when the host went down" },
	{ "fell_back_files", FIGURE_ALIKE, FIGURE_COUNT, MOUNT_OFFSET(fell_back_files), false,
	  "Of them, those that have what their last fsync made durable" },
	{ "fill_bytes", FIGURE_ALIKE, FIGURE_BYTES, MOUNT_OFFSET(fill_bytes), true, "Read into the kernel's cache" },
	{ "refused_fills", FIGURE_ALIKE, FIGURE_COUNT, MOUNT_OFFSET(refused_fills), true,
	  "Requests of the kernel's cache for more than it is given at once" },
	{ "write_back_bytes", FIGURE_ALIKE, FIGURE_BYTES, MOUNT_OFFSET(write_back_bytes), true,
	  "Dirty pages that came back from the kernel's cache" },
};
const struct figures figures_of_mount = { of_mount, COUNT_OF(of_mount) };

#define STORE_OFFSET(field) offsetof(struct store_figures, field)
static const struct figure of_store[] = {
	{ "disk_bytes", FIGURE_ALIKE, FIGURE_BYTES, STORE_OFFSET(disk_bytes), false, "Files of the store" },
	{ "memory_bytes", FIGURE_ALIKE, FIGURE_BYTES, STORE_OFFSET(memory_bytes), false,
	  "Tables and caches of the store" },
	{ "put_blocks", FIGURE_ALIKE, FIGURE_BLOCKS, STORE_OFFSET(put_blocks), true, "Blocks that were stored" },
	{ "put_bytes", FIGURE_ALIKE, FIGURE_BYTES, STORE_OFFSET(put_bytes), true, "The same, compressed" },
	{ "get_blocks", FIGURE_ALIKE, FIGURE_BLOCKS, STORE_OFFSET(get_blocks), true, "Blocks that were read" },
	{ "get_bytes", FIGURE_ALIKE, FIGURE_BYTES, STORE_OFFSET(get_bytes), true, "The same, compressed" },
	{ "errors", FIGURE_ALIKE, FIGURE_COUNT, STORE_OFFSET(errors), true,
	  "Calls that the disk or its lack of room failed" },
	{ "index_written_bytes", FIGURE_ALIKE, FIGURE_BYTES, STORE_OFFSET(index_written_bytes), true,
	  "Written by the database, to its log and its files" },
	{ "full", FIGURE_ALIKE, FIGURE_FLAG, STORE_OFFSET(full), false, "The last write was refused for lack of room" },
	{ "warm_limit_bytes", FIGURE_ALIKE, FIGURE_BYTES, STORE_OFFSET(warm_limit_bytes), false,
	  "What the warm store may hold" },
	{ "warm_bytes", FIGURE_ALIKE, FIGURE_BYTES, STORE_OFFSET(warm_bytes), false, "What it holds" },
	{ "warm_blocks", FIGURE_ALIKE, FIGURE_BLOCKS, STORE_OFFSET(warm_blocks), false, "Values that lie in DRAM" },
	{ "warm_hits", FIGURE_ALIKE, FIGURE_COUNT, STORE_OFFSET(warm_hits), true, "Reads that they answered" },
	{ "warm_moved_blocks", FIGURE_ALIKE, FIGURE_BLOCKS, STORE_OFFSET(warm_moved_blocks), true,
	  "Values that went from there to the disk" },
};
const struct figures figures_of_store = { of_store, COUNT_OF(of_store) };

static uint64_t *number_in(const struct figure *figure, void *values)
{
	return (uint64_t *)((char *)values + figure->offset);
}

uint64_t figures_value(const struct figure *figure, const void *values)
{
	const char *at = (const char *)values + figure->offset;

	return figure->unit == FIGURE_FLAG ? *(const bool *)at : *(const uint64_t *)at;
}

void figures_add(const struct figures *table, void *sum, const void *values)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct figure *figure = &table->figure[i];
		uint64_t value = figures_value(figure, values);

		if (figure->kind == FIGURE_SUM)
			*number_in(figure, sum) += value;
		else if (figure->kind == FIGURE_WORST && value > *number_in(figure, sum))
			*number_in(figure, sum) = value;
	}
}

void figures_json(const struct figures *table, const void *values, size_t first, size_t count, json_t *object)
{
	for (size_t i = first; i < table->count && i - first < count; i++) {
		const struct figure *figure = &table->figure[i];
		uint64_t value = figures_value(figure, values);

		json_object_set_new(object, figure->name,
				    figure->unit == FIGURE_FLAG ? json_boolean(value)
								: json_integer((json_int_t)value));
	}
}
