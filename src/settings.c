/*
 * settings.c
 *		The settings of the extension: one table row each.
 *
 * What can harm others, by deleting their answers or filling the lock table,
 * takes a superuser.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "settings.h"

int			cqrs_command_retention_s;
int			cqrs_state_cache_size_kb;
int			cqrs_max_entity_locks;
int			cqrs_projection_workers;
int			cqrs_max_projection_partitions;
int			cqrs_retry_delay_ms;
bool		cqrs_allow_journal_changes;
bool		cqrs_store_mark;
bool		cqrs_workers;

typedef struct IntSetting
{
	const char *name;
	const char *summary;
	const char *details;
	int		   *value;
	int			initial;
	int			lowest;
	int			highest;
	GucContext	context;
	int			unit;
} IntSetting;

static const IntSetting int_settings[] = {
	{
		"cqrs.command_retention",
		"How long the answer to a command_id is kept.",
		"Within this time a repeated command_id returns the first answer and changes nothing.",
		&cqrs_command_retention_s, 7 * 24 * 3600, 1, INT_MAX, PGC_SUSET, GUC_UNIT_S
	},
	{
		"cqrs.state_cache_size",
		"Memory in each backend for the states of the entities used last.",
		"0 turns the cache off.",
		&cqrs_state_cache_size_kb, 8 * 1024, 0, 1024 * 1024, PGC_USERSET, GUC_UNIT_KB
	},
	{
		"cqrs.max_entity_locks",
		"How many entities one transaction locks at most.",
		"Beyond it the journal's primary key alone keeps writers of one entity apart: "
		"who comes second is told so by an error instead of waiting.",
		&cqrs_max_entity_locks, 1000, 0, INT_MAX, PGC_SUSET, 0
	},
	{
		"cqrs.projection_workers",
		"How many background workers run the projections of a database.",
		"For one database: ALTER DATABASE ... SET.  Each takes a slot of max_worker_processes.",
		&cqrs_projection_workers, 1, 1, 64, PGC_SUSET, 0
	},
	{
		"cqrs.max_projection_partitions",
		"How many partitions the projections of all databases may have together.",
		"Each takes about 700 bytes of shared memory.",
		&cqrs_max_projection_partitions, 2048, 16, 1024 * 1024, PGC_POSTMASTER, 0
	},
	{
		"cqrs.retry_delay",
		"After how long a projection is tried again the first time that it fails.",
		"The time doubles with each failure, up to 30 s, and is shortened at random by up to a half.",
		&cqrs_retry_delay_ms, 200, 1, 30 * 1000, PGC_SIGHUP, GUC_UNIT_MS
	},
};

typedef struct BoolSetting
{
	const char *name;
	const char *summary;
	const char *details;
	bool	   *value;
	bool		initial;
	GucContext	context;
} BoolSetting;

static const BoolSetting bool_settings[] = {
	{
		"cqrs.allow_journal_changes",
		"Lets UPDATE, DELETE and TRUNCATE of cqrs.journal through.",
		"For repairs by hand.  The journal is the store of record: "
		"snapshots and read models do not follow such a change.",
		&cqrs_allow_journal_changes, false, PGC_SUSET
	},
	{
		"cqrs.store_mark",
		"Stores the high-water mark for standbys, so that the journal can be read in order there.",
		"It takes a worker in each database that has a journal, and a small write at most "
		"every 100 ms while events are written.",
		&cqrs_store_mark, false, PGC_SIGHUP
	},
	{
		"cqrs.workers",
		"Runs background workers.",
		"Without them nothing is projected that is not projected by a trigger.  "
		"To be turned off on a copy of a server that shall not act like the original.",
		&cqrs_workers, true, PGC_SIGHUP
	},
};

void
cqrs_settings_init(void)
{
	for (int i = 0; i < lengthof(int_settings); i++)
	{
		const IntSetting *s = &int_settings[i];

		DefineCustomIntVariable(s->name, s->summary, s->details, s->value,
								s->initial, s->lowest, s->highest,
								s->context, s->unit, NULL, NULL, NULL);
	}
	for (int i = 0; i < lengthof(bool_settings); i++)
	{
		const BoolSetting *s = &bool_settings[i];

		DefineCustomBoolVariable(s->name, s->summary, s->details, s->value,
								 s->initial, s->context, 0, NULL, NULL, NULL);
	}
	MarkGUCPrefixReserved("cqrs");
}
