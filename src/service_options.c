/*
 * service_options.c
 *		Services as people register them: foreign servers and user mappings.
 *
 * A service is a foreign server of the wrapper cqrs_http, so it has an owner,
 * USAGE to be granted, a place in dumps, and credentials per role.  One table
 * has all options; its functions both check a value, for the wrapper's
 * validator, and take it, for a call.
 *
 * Everybody can read the options of a server, so secrets are options of user
 * mappings; and whoever may use a server may make a mapping for himself, so
 * what names files on the server takes a superuser in mappings too.  An error
 * never quotes an option of a mapping, nor a URL, which may have a password.
 *
 * Options are read at each call: a change counts from the next one on.
 */
#include "postgres.h"

#include <limits.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "service_options.h"
#include "service_signature.h"
#include "service_url.h"

#define WRAPPER			"cqrs_http"
#define HEADER_PREFIX	"header_"

typedef struct Option Option;

struct Option
{
	const char *name;
	Oid			catalog;
	bool		superuser_only;
	bool		(*take) (const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
	size_t		offset;			/* of the field in ServiceOptions */
	double		lowest;			/* for numbers */
	double		highest;
};

static bool take_url(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_bool(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_time(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_size(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_count(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_real(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_mode(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_statuses(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_source(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_secrets(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_text(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);
static bool take_header(const Option *option, DefElem *given, ServiceOptions *options, const char **hint);

#define SERVER	ForeignServerRelationId
#define MAPPING UserMappingRelationId
#define FIELD(name)	offsetof(ServiceOptions, name)

static const Option table[] = {
	{"url", SERVER, false, take_url, FIELD(url)},
	{"allow_http", SERVER, false, take_bool, FIELD(allow_http)},
	{"call_timeout", SERVER, false, take_time, FIELD(call_timeout_ms), 1, INT_MAX},
	{"connect_timeout", SERVER, false, take_time, FIELD(connect_timeout_ms), 1, INT_MAX},
	{"max_concurrency", SERVER, false, take_count, FIELD(max_concurrency), 0, INT_MAX},
	{"max_response_size", SERVER, false, take_size, FIELD(max_response_size_kb), 1, 512 * 1024},
	{"sslrootcert", SERVER, true, take_text, FIELD(sslrootcert)},
	{"breaker", SERVER, false, take_mode, FIELD(breaker)},
	{"max_failures", SERVER, false, take_count, FIELD(max_failures), 1, INT_MAX},
	{"reset_timeout", SERVER, false, take_time, FIELD(reset_timeout_ms), 1, INT_MAX},
	{"max_reset_timeout", SERVER, false, take_time, FIELD(max_reset_timeout_ms), 1, INT_MAX},
	{"backoff_factor", SERVER, false, take_real, FIELD(backoff_factor), 1, 1000},
	{"jitter", SERVER, false, take_real, FIELD(jitter), 0, 1},
	{"failure_statuses", SERVER, false, take_statuses, FIELD(failure_statuses)},
	{"event_source", SERVER, false, take_source, FIELD(event_source)},
	{"bearer_token", MAPPING, false, take_text, FIELD(bearer_token)},
	{"user", MAPPING, false, take_text, FIELD(user)},
	{"password", MAPPING, false, take_text, FIELD(password)},
	{"signing_secret", MAPPING, false, take_secrets, FIELD(signing_secret)},
	{"sslcert", MAPPING, true, take_text, FIELD(sslcert)},
	{"sslkey", MAPPING, true, take_text, FIELD(sslkey)},
	{HEADER_PREFIX "*", MAPPING, false, take_header, FIELD(headers)},
};

/* What a server has that says nothing: Lagom's defaults, where Lagom has one. */
static const ServiceOptions defaults = {
	.call_timeout_ms = 10 * 1000,
	.connect_timeout_ms = 5 * 1000,
	.max_response_size_kb = 1024,
	.breaker = BREAKER_ON,
	.max_failures = 10,
	.reset_timeout_ms = 15 * 1000,
	.max_reset_timeout_ms = 3600 * 1000,
	.backoff_factor = 1,
};
static const char default_statuses[] = "5xx,429,408";

static const Option *find_option(const char *name, Oid catalog);
static void refuse_unknown(const char *name, Oid catalog);
static const char *nearest_option(const char *name, Oid catalog);
static void take_all(List *given, Oid catalog, ServiceOptions *options);
static void refuse_value(const Option *option, DefElem *given, const char *hint);
static void check_together(const ServiceOptions *options, Oid catalog);
static List *mapping_options(Oid role, Oid server);

/* The validator of the wrapper: all options that an object is to have, and its catalog. */
PG_FUNCTION_INFO_V1(cqrs_http_validator);
Datum
cqrs_http_validator(PG_FUNCTION_ARGS)
{
	List	   *given = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ServiceOptions options = defaults;
	ListCell   *cell;

	foreach(cell, given)
	{
		DefElem    *element = lfirst(cell);
		const Option *option = find_option(element->defname, catalog);

		if (option == NULL)
			refuse_unknown(element->defname, catalog);
		if (option->superuser_only && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("option \"%s\" can be set by superusers only", option->name),
					 errdetail("It names a file on the database server.")));
	}
	take_all(given, catalog, &options);
	check_together(&options, catalog);
	PG_RETURN_VOID();
}

/* A service as a role may call it, with its credentials there. */
ServiceOptions *
cqrs_service_options_load(const char *name, Oid role)
{
	ServiceOptions *options = cqrs_service_options_load_server(name);

	if (!cqrs_may_use_server(options->server, role))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER, name);
	take_all(mapping_options(role, options->server), MAPPING, options);
	return options;
}

/* A service as it is for everybody. */
ServiceOptions *
cqrs_service_options_load_server(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, false);
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);
	ServiceOptions *options = palloc(sizeof(ServiceOptions));

	if (strcmp(wrapper->fdwname, WRAPPER) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a service", name),
				 errdetail("Its foreign-data wrapper is \"%s\" instead of \"%s\".", wrapper->fdwname, WRAPPER)));
	*options = defaults;
	options->server = server->serverid;
	options->name = server->servername;
	options->owner = server->owner;
	take_all(server->options, SERVER, options);
	check_together(options, SERVER);
	return options;
}

/* ---- the table ---- */

static const Option *
find_option(const char *name, Oid catalog)
{
	for (int i = 0; i < lengthof(table); i++)
	{
		if (table[i].catalog != catalog)
			continue;
		if (strcmp(table[i].name, name) == 0 && table[i].take != take_header)
			return &table[i];
		if (table[i].take == take_header && strncmp(name, HEADER_PREFIX, strlen(HEADER_PREFIX)) == 0)
			return &table[i];
	}
	return NULL;
}

static void
refuse_unknown(const char *name, Oid catalog)
{
	const char *nearest = nearest_option(name, catalog);
	StringInfoData all;

	initStringInfo(&all);
	for (int i = 0; i < lengthof(table); i++)
		if (table[i].catalog == catalog)
			appendStringInfo(&all, "%s%s", all.len > 0 ? ", " : "", table[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 nearest ? errhint("Perhaps you meant the option \"%s\".", nearest) :
			 all.len > 0 ? errhint("The options here are: %s.", all.data) :
			 errhint("There are no options here; services are servers and user mappings.")));
}

/* Among names that share at least half of the letters. */
static const char *
nearest_option(const char *name, Oid catalog)
{
	const char *nearest = NULL;
	int			length = strlen(name);
	int			least = length / 2 + 1;

	if (length >= NAMEDATALEN)
		return NULL;
	for (int i = 0; i < lengthof(table); i++)
	{
		int			distance;

		if (table[i].catalog != catalog)
			continue;
		distance = varstr_levenshtein(name, length, table[i].name, strlen(table[i].name), 1, 1, 1, true);
		if (distance < least)
		{
			least = distance;
			nearest = table[i].name;
		}
	}
	return nearest;
}

static void
take_all(List *given, Oid catalog, ServiceOptions *options)
{
	ListCell   *cell;

	foreach(cell, given)
	{
		DefElem    *element = lfirst(cell);
		const Option *option = find_option(element->defname, catalog);
		const char *hint = NULL;

		if (option && !option->take(option, element, options, &hint))
			refuse_value(option, element, hint);
	}
	if (options->failure_statuses == NULL)
	{
		DefElem		element = {.arg = (Node *) makeString(pstrdup(default_statuses))};

		(void) take_statuses(find_option("failure_statuses", SERVER), &element, options, NULL);
	}
}

static void
refuse_value(const Option *option, DefElem *given, const char *hint)
{
	bool		quotable = option->catalog == SERVER && option->take != take_url;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 quotable ? errmsg("invalid value for option \"%s\": \"%s\"", option->name, defGetString(given)) :
			 errmsg("invalid value for option \"%s\"", given->defname),
			 hint ? errhint("%s", _(hint)) : 0));
}

/* What one option alone cannot say. */
static void
check_together(const ServiceOptions *options, Oid catalog)
{
	bool		is_https = false;
	ListCell   *cell;

	if (catalog == SERVER && options->url == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("a service needs the option \"url\"")));
	if (catalog == SERVER && cqrs_service_url_check_base(options->url, &is_https) == NULL &&
		!is_https && !options->allow_http)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the URL of a service must begin with https://"),
				 errhint("Where nobody listens on the way, set the option allow_http to 'true'.")));
	if (catalog == MAPPING && options->bearer_token && options->user)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"bearer_token\" and \"user\" exclude each other")));
	foreach(cell, options->headers)
	{
		const char *name = ((HttpField *) lfirst(cell))->name;

		if (options->signing_secret && cqrs_service_signature_is_header(name))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"signing_secret\" and the header \"%s\" exclude each other", name)));
	}
}

/* Those of the role, else those of PUBLIC; a service may do without. */
static List *
mapping_options(Oid role, Oid server)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role), ObjectIdGetDatum(server));
	List	   *options = NIL;
	Datum		stored;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		return NIL;
	stored = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		options = untransformRelOptions(stored);
	ReleaseSysCache(tuple);
	return options;
}

/* ---- one kind of value each: true if it was taken ---- */

static void *
field_of(const Option *option, ServiceOptions *options)
{
	return (char *) options + option->offset;
}

static bool
take_url(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	bool		is_https;
	const char *problem;

	options->url = defGetString(given);
	problem = cqrs_service_url_check_base(options->url, &is_https);
	if (problem)
		*hint = psprintf("What is wrong: %s.", problem);
	return problem == NULL;
}

static bool
take_bool(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	return parse_bool(defGetString(given), field_of(option, options));
}

/* A number with a unit of settings, in a range. */
static bool
take_int(const Option *option, DefElem *given, ServiceOptions *options, int unit, const char **hint)
{
	int			value;

	if (!parse_int(defGetString(given), &value, unit, hint))
		return false;
	if (value < option->lowest || value > option->highest)
	{
		*hint = psprintf("It is from %d to %d%s.", (int) option->lowest, (int) option->highest,
						 unit == GUC_UNIT_MS ? " ms" : unit == GUC_UNIT_KB ? " kB" : "");
		return false;
	}
	*(int *) field_of(option, options) = value;
	return true;
}

static bool
take_time(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	return take_int(option, given, options, GUC_UNIT_MS, hint);
}

static bool
take_size(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	return take_int(option, given, options, GUC_UNIT_KB, hint);
}

static bool
take_count(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	return take_int(option, given, options, 0, hint);
}

static bool
take_real(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	double		value;

	if (!parse_real(defGetString(given), &value, 0, hint))
		return false;
	*hint = psprintf("It is from %g to %g.", option->lowest, option->highest);
	if (!(value >= option->lowest && value <= option->highest))
		return false;
	*(double *) field_of(option, options) = value;
	return true;
}

static bool
take_mode(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	const char *value = defGetString(given);
	bool		on;

	if (strcmp(value, "forced_open") == 0)
		options->breaker = BREAKER_FORCED_OPEN;
	else if (parse_bool(value, &on))
		options->breaker = on ? BREAKER_ON : BREAKER_OFF;
	else
		*hint = "It is on, off or forced_open.";
	return *hint == NULL;
}

/* A list of statuses and classes of them: 5xx,429 */
static bool
take_statuses(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	List	   *names;
	ListCell   *cell;
	bool		valid = SplitIdentifierString(pstrdup(defGetString(given)), ',', &names);
	Bitmapset  *statuses = NULL;

	foreach(cell, names)
	{
		const char *name = lfirst(cell);
		bool		is_class = strlen(name) == 3 && strcmp(name + 1, "xx") == 0;
		int			status = 0;

		if (is_class)
			status = (name[0] - '0') * 100;
		else
			valid = valid && parse_int(name, &status, 0, NULL);
		if (status < 100 || status > 599)
			valid = false;
		else
			statuses = bms_add_range(statuses, status, is_class ? status + 99 : status);
	}
	if (!valid || statuses == NULL)
	{
		*hint = "It is a list of statuses and classes of them, such as 5xx,429,408.";
		return false;
	}
	options->failure_statuses = statuses;
	return true;
}

/* A reference to a URI, as CloudEvents wants it: its characters, and not empty. */
static bool
take_source(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	static const char allowed[] = "-._~:/?#[]@!$&'()*+,;=%0123456789"
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	options->event_source = defGetString(given);
	*hint = "It is a URI or a part of one, such as /billing.";
	return options->event_source[0] && options->event_source[strspn(options->event_source, allowed)] == '\0';
}

static bool
take_secrets(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	options->signing_secret = defGetString(given);
	*hint = "It is whsec_ and the base64 of 24 to 64 bytes; or several of these, with a space between.";
	return cqrs_service_signature_check(options->signing_secret);
}

/* What goes into headers may not end a line. */
static bool
take_text(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	char	   *value = defGetString(given);

	if (value[0] == '\0' || cqrs_service_url_check_header("any", value) ||
		(option->offset == FIELD(user) && strchr(value, ':')))
	{
		*hint = "It must not be empty nor have control characters; a user has no colon either.";
		return false;
	}
	*(const char **) field_of(option, options) = value;
	return true;
}

/* header_x_api_key is X-Api-Key. */
static bool
take_header(const Option *option, DefElem *given, ServiceOptions *options, const char **hint)
{
	HttpField  *field = palloc(sizeof(HttpField));
	char	   *name = pstrdup(given->defname + strlen(HEADER_PREFIX));
	const char *problem;

	for (char *c = name; *c; c++)
		if (*c == '_')
			*c = '-';
	field->name = name;
	field->value = defGetString(given);
	problem = cqrs_service_url_check_header(field->name, field->value);
	if (problem)
		*hint = psprintf("What is wrong: %s.", problem);
	options->headers = lappend(options->headers, field);
	return problem == NULL;
}
