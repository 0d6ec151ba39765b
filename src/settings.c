/*
 * settings.c
 *		The settings of the extension: one table row each.
 *
 * What can harm others, by deleting their answers, filling the lock table or
 * reaching what they keep from it, takes a superuser.
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
int			cqrs_max_services;
int			cqrs_breaker_clock_offset_ms;
int			cqrs_command_timeout_ms;
int			cqrs_outbox_concurrency;
int			cqrs_outbox_max_attempts;
int			cqrs_outbox_retry_delay_ms;
int			cqrs_outbox_max_retry_delay_s;
int			cqrs_outbox_retention_s;
bool		cqrs_allow_journal_changes;
bool		cqrs_allow_call_after_append;
bool		cqrs_allow_link_local_addresses;
bool		cqrs_allow_unguarded_calls;
bool		cqrs_store_mark;
bool		cqrs_workers;
char	   *cqrs_traceparent;

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
		"cqrs.command_timeout",
		"How long a command may take that a timer or the outbox sends.",
		"With what it defers until the commit.  Others of the kind wait meanwhile.",
		&cqrs_command_timeout_ms, 60 * 1000, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS
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
		"After how long a projection or a timer is tried again the first time that it fails.",
		"The time doubles with each failure, up to 30 s, and is shortened at random by up to a half.",
		&cqrs_retry_delay_ms, 200, 1, 30 * 1000, PGC_SIGHUP, GUC_UNIT_MS
	},
	{
		"cqrs.max_services",
		"How many services of all databases have a circuit breaker.",
		"Beyond it a call to another service fails, unless cqrs.allow_unguarded_calls is on.",
		&cqrs_max_services, 256, 1, 65536, PGC_POSTMASTER, 0
	},
	{
		"cqrs.breaker_clock_offset",
		"How far the clock of circuit breakers is ahead in this session.",
		"For tests: the reset timeout of a breaker passes without anybody waiting for it.",
		&cqrs_breaker_clock_offset_ms, 0, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS
	},
	{
		"cqrs.outbox_concurrency",
		"How many deliveries of the outbox are under way to one service at once.",
		"The option max_concurrency of a server is a limit besides.",
		&cqrs_outbox_concurrency, 16, 1, 128, PGC_SIGHUP, 0
	},
	{
		"cqrs.outbox_max_attempts",
		"How often a delivery is attempted, and its command, before it is given up.",
		"For cqrs.enqueue without max_attempts.",
		&cqrs_outbox_max_attempts, 20, 1, INT_MAX, PGC_USERSET, 0
	},
	{
		"cqrs.outbox_retry_delay",
		"Within what time a delivery is tried again the first time that it fails.",
		"The time is drawn at random from 0 to a bound, which is this and doubles with each failure.",
		&cqrs_outbox_retry_delay_ms, 1000, 1, 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS
	},
	{
		"cqrs.outbox_max_retry_delay",
		"The longest time after which a delivery is tried again.",
		"Also where a service asks for more by Retry-After.",
		&cqrs_outbox_max_retry_delay_s, 3600, 1, 30 * 24 * 3600, PGC_SIGHUP, GUC_UNIT_S
	},
	{
		"cqrs.outbox_retention",
		"How long a delivery is kept that was made.",
		"One that was given up is kept until cqrs.discard_outbox.",
		&cqrs_outbox_retention_s, 24 * 3600, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S
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
		"For repairs by hand; all writers wait until the transaction ends.  "
		"LOCK TABLE cqrs.journal IN SHARE ROW EXCLUSIVE MODE as the first thing in the transaction, so that it sees what they had under way.  "
		"The journal is the store of record: snapshots and read models do not follow such a change.",
		&cqrs_allow_journal_changes, false, PGC_SUSET
	},
	{
		"cqrs.allow_call_after_append",
		"Lets cqrs.call through in a transaction that has appended events.",
		"Every reader of the journal in order waits for such a transaction, so for the call.",
		&cqrs_allow_call_after_append, false, PGC_SUSET
	},
	{
		"cqrs.allow_link_local_addresses",
		"Lets calls go to link-local and metadata addresses.",
		"A cloud's metadata service, at 169.254.169.254, gives credentials of the machine to whoever asks.",
		&cqrs_allow_link_local_addresses, false, PGC_SUSET
	},
	{
		"cqrs.allow_unguarded_calls",
		"Lets calls go without a circuit breaker where cqrs.max_services leaves no room for one.",
		"Otherwise such a call fails.",
		&cqrs_allow_unguarded_calls, false, PGC_SUSET
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
		"Without them nothing is projected that is not projected by a trigger, no timer fires, and nothing is delivered.  "
		"To be turned off on a copy of a server that shall not act like the original.",
		&cqrs_workers, true, PGC_SIGHUP
	},
};

static bool check_traceparent(char **value, void **extra, GucSource source);

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
	DefineCustomStringVariable("cqrs.traceparent",
							   "The W3C trace context that calls to other services carry.",
							   "00-TRACE-PARENT-FLAGS: a trace id of 32, a parent id of 16 and flags of 2 "
							   "hexadecimal digits, in lower case.  Empty: none.",
							   &cqrs_traceparent, "", PGC_USERSET, 0,
							   check_traceparent, NULL, NULL);
	MarkGUCPrefixReserved("cqrs");
}

/* An id of zeroes alone is none, and version ff is reserved. */
static bool
check_traceparent(char **value, void **extra, GucSource source)
{
	static const char form[] = "vv-tttttttttttttttttttttttttttttttt-pppppppppppppppp-ff";
	static const char zeroes[] = "00000000000000000000000000000000";
	const char *given = *value;

	if (given[0] == '\0')
		return true;
	if (strlen(given) != strlen(form))
		return false;
	for (int i = 0; form[i]; i++)
		if (form[i] == '-' ? given[i] != '-' : strchr("0123456789abcdef", given[i]) == NULL)
			return false;
	return strncmp(given, "ff", 2) != 0 &&
		strncmp(given + 3, zeroes, 32) != 0 && strncmp(given + 36, zeroes, 16) != 0;
}
