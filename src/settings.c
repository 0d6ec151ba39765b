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
bool		cqrs_allow_journal_changes;

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
	DefineCustomBoolVariable("cqrs.allow_journal_changes",
							 "Lets UPDATE, DELETE and TRUNCATE of cqrs.journal through.",
							 "For repairs by hand.  The journal is the store of record: "
							 "snapshots and read models do not follow such a change.",
							 &cqrs_allow_journal_changes, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("cqrs");
}
