/*
 * effect.c
 *		What a command handler decides.
 *
 * An effect is plain data, built by the SQL functions of effect.sql, which
 * are inlined.  What they were given is checked here.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/typcache.h"

#include "compat.h"
#include "effect.h"
#include "errors.h"

enum
{
	KIND, EVENTS, REPLY, REASON, CODE, DETAIL, ATTRIBUTES
};

static void parse_kind(text *kind, Effect *effect);

/* Takes a cqrs.effect apart; it refers to the value where it can. */
void
cqrs_effect_parse(Datum value, Effect *effect)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row),
											  HeapTupleHeaderGetTypMod(row));
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row), .t_data = row};
	Datum		values[ATTRIBUTES];
	bool		nulls[ATTRIBUTES];

	if (desc->natts != ATTRIBUTES)
		elog(ERROR, "type cqrs.effect has %d attributes", desc->natts);
	heap_deform_tuple(&tuple, desc, values, nulls);
	ReleaseTupleDesc(desc);

	memset(effect, 0, sizeof(Effect));
	parse_kind(nulls[KIND] ? NULL : DatumGetTextPP(values[KIND]), effect);
	if (!nulls[EVENTS])
		effect->events = cqrs_new_event_parse(values[EVENTS], &effect->count);
	effect->reply = nulls[REPLY] ? NULL : DatumGetJsonbP(values[REPLY]);
	effect->reason = nulls[REASON] ? NULL : DatumGetTextPP(values[REASON]);
	effect->code = nulls[CODE] ? NULL : DatumGetTextPP(values[CODE]);
	effect->detail = nulls[DETAIL] ? NULL : DatumGetJsonbP(values[DETAIL]);
}

/* The reason is the message; code and detail are there for programs. */
void
cqrs_effect_raise_rejection(const Effect *effect)
{
	StringInfoData detail;

	initStringInfo(&detail);
	if (effect->code)
		appendStringInfo(&detail, "Code: %s", text_to_cstring(effect->code));
	if (effect->detail)
		appendStringInfo(&detail, "%sDetail: %s", detail.len > 0 ? "  " : "",
						 JsonbToCString(NULL, &effect->detail->root, VARSIZE(effect->detail)));
	ereport(ERROR,
			(errcode(CQRS_COMMAND_REJECTED),
			 errmsg("%s", effect->reason ? text_to_cstring(effect->reason) : "command rejected"),
			 detail.len > 0 ? errdetail("%s", detail.data) : 0));
}

static void
parse_kind(text *kind, Effect *effect)
{
	char	   *name = kind ? text_to_cstring(kind) : "NULL";

	if (strcmp(name, "persist") == 0)
		effect->kind = EFFECT_PERSIST;
	else if (strcmp(name, "reject") == 0)
		effect->kind = EFFECT_REJECT;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an effect of kind \"%s\" is not known", name),
				 errhint("Build effects with cqrs.persist, cqrs.persist_all, cqrs.reply and cqrs.reject.")));
}
