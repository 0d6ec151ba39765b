/*
 * service_signature.c
 *		Signatures of requests, as Standard Webhooks has them.
 *
 * What is signed is "id.timestamp.body", by HMAC-SHA256: a request that was
 * recorded cannot be sent again later, and none can be made up, by whoever does
 * not have the secret.  The id and the timestamp have no full stop, so that no
 * two requests are the same text.
 *
 * A secret is "whsec_" and the base64 of 24 to 64 bytes.  There may be several,
 * with spaces between: each signs, so that a service can change over from one
 * to the next.  Decoded, they are overwritten after use; no error quotes them.
 */
#include "postgres.h"

#include "common/base64.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "service_signature.h"
#include "service_url.h"

#define ID_HEADER			"webhook-id"
#define TIMESTAMP_HEADER	"webhook-timestamp"
#define SIGNATURE_HEADER	"webhook-signature"

#define PREFIX			"whsec_"
#define MIN_SECRET		24
#define MAX_SECRET		64
#define BASE64_SIZE(n)	(((n) + 2) / 3 * 4)

/* What is signed: head is "id.timestamp.". */
typedef struct Content
{
	const char *head;
	const char *body;
	Size		body_size;
} Content;

static int	decode_secret(const char *secret, int length, uint8 *key);
static void sign(const uint8 *key, int key_size, const Content *content, StringInfo signatures);
static List *add_header(List *headers, const char *name, const char *value);

/* Are they secrets, one or more? */
bool
cqrs_service_signature_check(const char *secrets)
{
	uint8		key[MAX_SECRET];
	bool		valid = true;
	const char *secret = secrets;

	do
	{
		int			length = strcspn(secret, " ");

		valid = valid && decode_secret(secret, length, key) >= MIN_SECRET;
		secret += length;
	} while (*secret++);
	explicit_bzero(key, sizeof(key));
	return valid;
}

/* Is it one of those that a signature consists of? */
bool
cqrs_service_signature_is_header(const char *name)
{
	return pg_strcasecmp(name, ID_HEADER) == 0 || pg_strcasecmp(name, TIMESTAMP_HEADER) == 0 ||
		pg_strcasecmp(name, SIGNATURE_HEADER) == 0;
}

/*
 * The headers of a request that is sent now, by secrets that were checked; a
 * list of HttpField, in the current memory context.
 */
List *
cqrs_service_signature_headers(const char *secrets, const char *id, const char *body, Size body_size)
{
	char	   *timestamp = psprintf(INT64_FORMAT, (int64) timestamptz_to_time_t(GetCurrentTimestamp()));
	Content		content = {psprintf("%s.%s.", id, timestamp), body, body_size};
	StringInfoData signatures;
	uint8		key[MAX_SECRET];
	const char *secret = secrets;
	List	   *headers = NIL;

	if (strchr(id, '.'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the idempotency key of a signed request has a full stop"),
				 errdetail("The user mapping has a signing_secret, and what is signed is parted by full stops.")));
	initStringInfo(&signatures);
	do
	{
		int			length = strcspn(secret, " ");

		sign(key, decode_secret(secret, length, key), &content, &signatures);
		secret += length;
	} while (*secret++);
	explicit_bzero(key, sizeof(key));
	headers = add_header(headers, ID_HEADER, id);
	headers = add_header(headers, TIMESTAMP_HEADER, timestamp);
	return add_header(headers, SIGNATURE_HEADER, signatures.data);
}

/* Returns its size, or -1. */
static int
decode_secret(const char *secret, int length, uint8 *key)
{
	int			prefix = strlen(PREFIX);

	if (length < prefix || strncmp(secret, PREFIX, prefix) != 0)
		return -1;
	/* char * up to PostgreSQL 17, uint8 * since then */
	return pg_b64_decode(secret + prefix, length - prefix, (void *) key, MAX_SECRET);
}

static void
sign(const uint8 *key, int key_size, const Content *content, StringInfo signatures)
{
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char		encoded[BASE64_SIZE(PG_SHA256_DIGEST_LENGTH)];
	int			size;

	if (context == NULL ||
		pg_hmac_init(context, key, key_size) < 0 ||
		pg_hmac_update(context, (const uint8 *) content->head, strlen(content->head)) < 0 ||
		pg_hmac_update(context, (const uint8 *) content->body, content->body_size) < 0 ||
		pg_hmac_final(context, digest, sizeof(digest)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not sign a request: %s", pg_hmac_error(context))));
	pg_hmac_free(context);
	size = pg_b64_encode((void *) digest, sizeof(digest), encoded, sizeof(encoded));
	appendStringInfo(signatures, "%sv1,%.*s", signatures->len > 0 ? " " : "", size, encoded);
}

static List *
add_header(List *headers, const char *name, const char *value)
{
	HttpField  *field = palloc(sizeof(HttpField));

	field->name = name;
	field->value = value;
	return lappend(headers, field);
}
