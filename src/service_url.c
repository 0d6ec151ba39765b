/*
 * service_url.c
 *		What a request's URL and headers are made of, checked.
 *
 * A service's owner gives the base of its URLs, who calls it gives a path, and
 * no path leads out of the base: it is put behind the base as it is, so it must
 * be percent-encoded, and it may have no segment "." or "..", however encoded.
 * A header's value may not end the line that it is in.
 *
 * URLs are parsed by libcurl, which is the one that will use them: two parsers
 * would differ somewhere, and be played off against each other.
 */
#include "postgres.h"

#include <curl/curl.h>

#include "lib/stringinfo.h"

#include "service_url.h"

static const char *check_base_parts(CURLU *url, bool *is_https);
static bool has_part(CURLU *url, CURLUPart part);
static bool has_dot_segment(const char *path);

/* May it be the base of a service's URLs?  Says whether it is of https. */
const char *
cqrs_service_url_check_base(const char *base, bool *is_https)
{
	CURLU	   *url = curl_url();
	const char *problem;
	CURLUcode	code;

	if (url == NULL)
		return "there is no memory for it";
	code = curl_url_set(url, CURLUPART_URL, base, CURLU_PATH_AS_IS);
	problem = code == CURLUE_OK ? check_base_parts(url, is_https) : curl_url_strerror(code);
	curl_url_cleanup(url);
	return problem;
}

static const char *
check_base_parts(CURLU *url, bool *is_https)
{
	const char *problem = NULL;
	char	   *scheme = NULL;
	char	   *path = NULL;

	(void) curl_url_get(url, CURLUPART_SCHEME, &scheme, 0);
	(void) curl_url_get(url, CURLUPART_PATH, &path, 0);
	*is_https = scheme && strcmp(scheme, "https") == 0;
	if (scheme == NULL || (!*is_https && strcmp(scheme, "http") != 0))
		problem = "the scheme is neither https nor http";
	else if (has_part(url, CURLUPART_USER) || has_part(url, CURLUPART_PASSWORD))
		problem = "user and password belong into a user mapping";
	else if (has_part(url, CURLUPART_QUERY) || has_part(url, CURLUPART_FRAGMENT))
		problem = "it has a query or fragment";
	else if (path)
		problem = cqrs_service_url_check_path(path);
	curl_free(scheme);
	curl_free(path);
	return problem;
}

static bool
has_part(CURLU *url, CURLUPart part)
{
	char	   *value = NULL;
	bool		found = curl_url_get(url, part, &value, 0) == CURLUE_OK;

	curl_free(value);
	return found;
}

/* May it be put behind the base?  It may have a query. */
const char *
cqrs_service_url_check_path(const char *path)
{
	for (const char *c = path; *c; c++)
		if (*c <= 0x20 || *c > 0x7E || *c == '\\' || *c == '#')
			return "it has characters that must be percent-encoded";
	if (has_dot_segment(path))
		return "it has a segment \".\" or \"..\", or a zero byte";
	return NULL;
}

/*
 * Looks at what the service will see once it has decoded the path.  Some drop
 * what begins with ";" in a segment before they look for dots.
 */
static bool
has_dot_segment(const char *path)
{
	char	   *encoded = pnstrdup(path, strcspn(path, "?"));
	int			length = 0;
	char	   *decoded = curl_easy_unescape(NULL, encoded, 0, &length);
	const char *segment = decoded;
	bool		found = decoded == NULL || strlen(decoded) != length;

	while (!found && segment)
	{
		size_t		size = strcspn(segment, "/\\");
		size_t		name = strcspn(segment, "/\\;");

		found = (name == 1 && segment[0] == '.') || (name == 2 && segment[0] == '.' && segment[1] == '.');
		segment = segment[size] ? segment + size + 1 : NULL;
	}
	curl_free(decoded);
	return found;
}

/*
 * Puts a checked path, which may have a query, and more of a query behind a
 * checked base.  In the current memory context.
 */
char *
cqrs_service_url(const char *base, const char *path, List *query)
{
	StringInfoData url;
	ListCell   *cell;
	char		separator = strchr(path, '?') ? '&' : '?';

	initStringInfo(&url);
	appendStringInfoString(&url, base);
	while (url.len > 0 && url.data[url.len - 1] == '/')
		url.data[--url.len] = '\0';
	if (path[0] != '/' && path[0] != '?' && path[0] != '\0')
		appendStringInfoChar(&url, '/');
	appendStringInfoString(&url, path);
	foreach(cell, query)
	{
		HttpField  *field = lfirst(cell);
		char	   *name = curl_easy_escape(NULL, field->name, 0);
		char	   *value = curl_easy_escape(NULL, field->value, 0);

		if (name && value)
			appendStringInfo(&url, "%c%s=%s", separator, name, value);
		separator = '&';
		curl_free(name);
		curl_free(value);
	}
	return url.data;
}

/* What frames a message is libcurl's to say. */
const char *
cqrs_service_url_check_header(const char *name, const char *value)
{
	static const char *const reserved[] = {
		"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer",
		"upgrade", "expect", "accept-encoding", "proxy-authorization", "proxy-connection"
	};
	static const char token[] = "!#$%&'*+-.^_`|~"
	"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	if (name[0] == '\0' || name[strspn(name, token)] != '\0')
		return "the name is not a token of HTTP";
	for (int i = 0; i < lengthof(reserved); i++)
		if (pg_strcasecmp(name, reserved[i]) == 0)
			return "it is set by the extension itself";
	for (const char *c = value; *c; c++)
		if (((unsigned char) *c < 0x20 && *c != '\t') || *c == 0x7F)
			return "the value has a control character";
	return NULL;
}
