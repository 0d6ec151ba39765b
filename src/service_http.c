/*
 * service_http.c
 *		HTTP transfers, any number at once, in one wait with the latch.
 *
 * The only file that has libcurl transfer something.  All transfers of a
 * backend share one multi handle and so its connections, which are kept alive.
 * libcurl says which sockets it waits for and until when; we wait, for them and
 * the latch, and tell it what happened.  So a cancel ends a call at once in
 * whatever phase it is.  These rules keep a library with threads and callbacks
 * harmless inside a backend:
 *
 *	- all signals are blocked while libcurl runs: the thread that it starts to
 *	  resolve a name inherits that, so PostgreSQL's handlers run in the main
 *	  thread alone.  NOSIGNAL, since SIGALRM is PostgreSQL's; QUICK_EXIT, or
 *	  the end of a transfer would wait for the resolver;
 *	- nothing is thrown while libcurl runs, so memory in callbacks is malloc()'s;
 *	- libcurl is set up on first use, never in the postmaster.
 *
 * And these keep a transfer from going where it should not, or on for ever:
 * https unless the request allows http, no redirects, no proxy, no .netrc, an
 * address check after the name was resolved, a cap on what is taken, counted
 * after decompression, and always a timeout.
 *
 * libcurl sends a request again, of its own accord, if a kept connection is
 * closed before anything was answered.  The service may have carried it out
 * by then, so a request that is not repeatable gets a new connection.
 *
 * File descriptors are reserved for a transfer, and for the connections that are
 * kept, not for each socket: libcurl does not tell of all it closes.
 *
 * HTTP/1.1, one transfer on a connection at a time.
 */
#include "postgres.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "service_address.h"
#include "service_http.h"
#include "service_wait.h"

#if LIBCURL_VERSION_NUM < 0x075700
#error "pg_cqrs needs libcurl 7.87 or newer (CURLOPT_QUICK_EXIT)"
#endif

#define MAX_HEADER_BYTES		(64 * 1024)
#define MAX_CONNECTION_AGE_S	300L

/*
 * With authorities of its own a service has no others, but libcurl may have been
 * built to look into the system's folder as well.  This one is in each data
 * directory, and has none: its names are numbers.
 */
#define NO_CERTIFICATES			"pg_tblspc"

/* Sets an option, and keeps what is wrong with it. */
#define SET(transfer, option, value) \
	((transfer)->problem = curl_easy_setopt((transfer)->easy, option, value))

struct HttpTransfer
{
	const HttpRequest *request;
	HttpResponse response;
	CURL	   *easy;
	struct curl_slist *headers;
	CURLcode	problem;		/* with setting it up */
	char	   *body;			/* malloc'ed */
	Size		body_capacity;
	Size		header_bytes;
	/* What a callback found */
	bool		too_large;
	bool		out_of_memory;
	bool		address_refused;
	bool		address_allowed;	/* another one of the name */
};

static CURLM *multi = NULL;
static int	max_kept_connections = 8;
static int64 timer_due_us = -1; /* when libcurl wants to be called; -1: not */

static void start_multi(void);
static CURLcode set_up_multi(void);
static int	errcode_of(CURLcode problem);
static bool set_up_transfer(HttpTransfer *transfer, List *lines);
static bool set_transport(HttpTransfer *transfer);
static bool set_limits(HttpTransfer *transfer);
static bool set_message(HttpTransfer *transfer);
static List *header_lines(const HttpRequest *request);
static bool set_headers(HttpTransfer *transfer, List *lines);
static void drive(curl_socket_t socket, int what);
static void finish_transfer(HttpTransfer *transfer, CURLcode code);
static void make_printable(char *text);
static int64 monotonic_us(void);
static void block_signals(sigset_t *before);
static void restore_signals(const sigset_t *before);
static int	on_socket(CURL *easy, curl_socket_t socket, int what, void *arg, void *socket_arg);
static int	on_timer(CURLM *handle, long timeout_ms, void *arg);
static size_t on_body(char *data, size_t size, size_t count, void *arg);
static size_t on_header(char *data, size_t size, size_t count, void *arg);
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address);

/* ---- transfers ---- */

/*
 * How many connections are kept, those in use included, for a process that has
 * many transfers at once; called before the first.
 */
void
cqrs_service_http_keep(int connections)
{
	Assert(multi == NULL);
	max_kept_connections = connections;
}

/* Begins a transfer; it goes on while cqrs_service_http_poll() is called. */
HttpTransfer *
cqrs_service_http_start(const HttpRequest *request)
{
	List	   *lines = header_lines(request);
	HttpTransfer *transfer;
	sigset_t	before;
	bool		started;

	start_multi();
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("there is no file descriptor for another HTTP request")));
	transfer = MemoryContextAllocZero(TopMemoryContext, sizeof(HttpTransfer));
	transfer->request = request;
	block_signals(&before);
	started = set_up_transfer(transfer, lines);
	restore_signals(&before);
	if (!started)
	{
		CURLcode	problem = transfer->problem;

		cqrs_service_http_free(transfer);
		ereport(ERROR,
				(errcode(errcode_of(problem)),
				 errmsg("could not set up an HTTP request"),
				 errdetail("libcurl says: %s.", curl_easy_strerror(problem))));
	}
	return transfer;
}

/*
 * Waits until something happens to a transfer, the latch is set or the time is
 * over (-1: no limit), and has transfers go on.  The latch is reset, so look at
 * what it stands for after each call: CHECK_FOR_INTERRUPTS().  True if it was set.
 */
bool
cqrs_service_http_poll(long timeout_ms)
{
	SocketEvent occurred[CQRS_SERVICE_WAIT_MAX_EVENTS];
	int			count;
	bool		woken;

	if (timer_due_us >= 0)
	{
		long		left = Max(0, (timer_due_us - monotonic_us() + 999) / 1000);

		timeout_ms = timeout_ms < 0 ? left : Min(timeout_ms, left);
	}
	count = cqrs_service_wait(timeout_ms, occurred, &woken);
	for (int i = 0; i < count; i++)
		drive(occurred[i].socket,
			  ((occurred[i].events & WL_SOCKET_READABLE) ? CURL_CSELECT_IN : 0) |
			  ((occurred[i].events & WL_SOCKET_WRITEABLE) ? CURL_CSELECT_OUT : 0));
	if (timer_due_us >= 0 && monotonic_us() >= timer_due_us)
		drive(CURL_SOCKET_TIMEOUT, 0);
	return woken;
}

/* What is known of it so far. */
const HttpResponse *
cqrs_service_http_response(const HttpTransfer *transfer)
{
	return &transfer->response;
}

/* The headers of the answer, as HttpField, in the current memory context. */
List *
cqrs_service_http_headers(const HttpTransfer *transfer)
{
	List	   *headers = NIL;
	struct curl_header *header = NULL;

	while ((header = curl_easy_nextheader(transfer->easy, CURLH_HEADER, -1, header)) != NULL)
	{
		HttpField  *field = palloc(sizeof(HttpField));

		field->name = pstrdup(header->name);
		/* An empty value still has the end of its line (libcurl 7.88). */
		field->value = pnstrdup(header->value, strcspn(header->value, "\r\n"));
		headers = lappend(headers, field);
	}
	return headers;
}

/* Ends the transfer if it is under way.  Throws nothing. */
void
cqrs_service_http_free(HttpTransfer *transfer)
{
	sigset_t	before;

	block_signals(&before);
	if (transfer->easy)
	{
		(void) curl_multi_remove_handle(multi, transfer->easy);
		curl_easy_cleanup(transfer->easy);
	}
	curl_slist_free_all(transfer->headers);
	restore_signals(&before);
	free(transfer->body);
	pfree(transfer);
	ReleaseExternalFD();
}

/* ---- setting up ---- */

static void
start_multi(void)
{
	sigset_t	before;
	CURLcode	problem;

	if (multi)
		return;
	block_signals(&before);
	problem = set_up_multi();
	restore_signals(&before);
	if (problem != CURLE_OK)
		ereport(ERROR,
				(errcode(errcode_of(problem)),
				 errmsg("could not set up libcurl"),
				 problem == CURLE_NOT_BUILT_IN ? errdetail("It must resolve names in a thread (AsynchDNS) and support TLS.") :
				 errdetail("libcurl says: %s.", curl_easy_strerror(problem))));
	for (int i = 0; i < max_kept_connections; i++)
		ReserveExternalFD();
}

static CURLcode
set_up_multi(void)
{
	const int	needed = CURL_VERSION_ASYNCHDNS | CURL_VERSION_SSL;
	CURLcode	code = curl_global_init(CURL_GLOBAL_DEFAULT);

	if (code != CURLE_OK)
		return code;
	if ((curl_version_info(CURLVERSION_NOW)->features & needed) != needed)
		return CURLE_NOT_BUILT_IN;
	multi = curl_multi_init();
	if (multi == NULL)
		return CURLE_OUT_OF_MEMORY;
	(void) curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	(void) curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	(void) curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING);
	(void) curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) max_kept_connections);
	return CURLE_OK;
}

/* Memory may be there the next time. */
static int
errcode_of(CURLcode problem)
{
	return problem == CURLE_OUT_OF_MEMORY ? ERRCODE_OUT_OF_MEMORY : ERRCODE_FDW_ERROR;
}

static bool
set_up_transfer(HttpTransfer *transfer, List *lines)
{
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL)
	{
		transfer->problem = CURLE_OUT_OF_MEMORY;
		return false;
	}
	if (!(set_transport(transfer) && set_limits(transfer) && set_message(transfer) && set_headers(transfer, lines)))
		return false;
	if (curl_multi_add_handle(multi, transfer->easy) == CURLM_OK)
		return true;
	transfer->problem = CURLE_OUT_OF_MEMORY;
	return false;
}

static bool
set_transport(HttpTransfer *transfer)
{
	const HttpRequest *request = transfer->request;
	const char *protocols = request->allow_http ? "https,http" : "https";

	return !(SET(transfer, CURLOPT_URL, request->url) ||
			 SET(transfer, CURLOPT_PROTOCOLS_STR, protocols) ||
			 SET(transfer, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1) ||
			 SET(transfer, CURLOPT_NOSIGNAL, 1L) ||
			 SET(transfer, CURLOPT_QUICK_EXIT, 1L) ||
			 SET(transfer, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L) ||
			 SET(transfer, CURLOPT_FOLLOWLOCATION, 0L) ||
			 SET(transfer, CURLOPT_PROXY, "") ||
			 SET(transfer, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED) ||
			 SET(transfer, CURLOPT_SSL_VERIFYPEER, 1L) ||
			 SET(transfer, CURLOPT_SSL_VERIFYHOST, 2L) ||
			 (request->user && SET(transfer, CURLOPT_USERNAME, request->user)) ||
			 (request->password && SET(transfer, CURLOPT_PASSWORD, request->password)) ||
			 (request->sslrootcert && SET(transfer, CURLOPT_CAINFO, request->sslrootcert)) ||
			 (request->sslrootcert && SET(transfer, CURLOPT_CAPATH, NO_CERTIFICATES) && transfer->problem != CURLE_NOT_BUILT_IN) ||
			 (request->sslcert && SET(transfer, CURLOPT_SSLCERT, request->sslcert)) ||
			 (request->sslkey && SET(transfer, CURLOPT_SSLKEY, request->sslkey)) ||
			 SET(transfer, CURLOPT_OPENSOCKETFUNCTION, open_socket) ||
			 SET(transfer, CURLOPT_OPENSOCKETDATA, transfer) ||
			 SET(transfer, CURLOPT_FRESH_CONNECT, request->repeatable ? 0L : 1L) ||
			 SET(transfer, CURLOPT_MAXLIFETIME_CONN, MAX_CONNECTION_AGE_S));
}

static bool
set_limits(HttpTransfer *transfer)
{
	const HttpRequest *request = transfer->request;

	return !(SET(transfer, CURLOPT_TIMEOUT_MS, (long) request->timeout_ms) ||
			 SET(transfer, CURLOPT_CONNECTTIMEOUT_MS, (long) request->connect_timeout_ms) ||
			 SET(transfer, CURLOPT_ACCEPT_ENCODING, "gzip") ||
			 SET(transfer, CURLOPT_WRITEFUNCTION, on_body) ||
			 SET(transfer, CURLOPT_WRITEDATA, transfer) ||
			 SET(transfer, CURLOPT_HEADERFUNCTION, on_header) ||
			 SET(transfer, CURLOPT_HEADERDATA, transfer) ||
			 SET(transfer, CURLOPT_ERRORBUFFER, transfer->response.error) ||
			 SET(transfer, CURLOPT_PRIVATE, transfer));
}

static bool
set_message(HttpTransfer *transfer)
{
	const HttpRequest *request = transfer->request;

	StaticAssertStmt(HTTP_ERROR_SIZE >= CURL_ERROR_SIZE, "error buffer is too small for libcurl");
	if (strcmp(request->method, "HEAD") == 0)
		return SET(transfer, CURLOPT_NOBODY, 1L) == CURLE_OK;
	if (request->body &&
		(SET(transfer, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_size) ||
		 SET(transfer, CURLOPT_POSTFIELDS, request->body)))
		return false;
	return SET(transfer, CURLOPT_CUSTOMREQUEST, request->method) == CURLE_OK;
}

/*
 * Headers as libcurl wants them, where a name without a value is a header to be
 * left out, and a semicolon for the colon makes an empty one.  It would wait
 * for a "100 Continue" before a large body, and call any body a form.
 */
static List *
header_lines(const HttpRequest *request)
{
	List	   *lines = list_make2("Expect:", "Content-Type:");
	ListCell   *cell;

	foreach(cell, request->headers)
	{
		HttpField  *field = lfirst(cell);

		lines = lappend(lines, psprintf(field->value[0] ? "%s: %s" : "%s;%s", field->name, field->value));
	}
	return lines;
}

static bool
set_headers(HttpTransfer *transfer, List *lines)
{
	ListCell   *cell;

	foreach(cell, lines)
	{
		struct curl_slist *longer = curl_slist_append(transfer->headers, lfirst(cell));

		if (longer == NULL)
		{
			transfer->problem = CURLE_OUT_OF_MEMORY;
			return false;
		}
		transfer->headers = longer;
	}
	return SET(transfer, CURLOPT_HTTPHEADER, transfer->headers) == CURLE_OK;
}

/* ---- going on ---- */

/* Has libcurl do what can be done, and takes up the transfers that ended. */
static void
drive(curl_socket_t socket, int what)
{
	sigset_t	before;
	CURLMsg    *message;
	int			ignored;

	if (socket == CURL_SOCKET_TIMEOUT)
		timer_due_us = -1;
	block_signals(&before);
	(void) curl_multi_socket_action(multi, socket, what, &ignored);
	while ((message = curl_multi_info_read(multi, &ignored)) != NULL)
	{
		HttpTransfer *transfer;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void) curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
		finish_transfer(transfer, message->data.result);
	}
	restore_signals(&before);
}

static void
finish_transfer(HttpTransfer *transfer, CURLcode code)
{
	HttpResponse *response = &transfer->response;
	long		status = 0;
	long		sent = 0;
	curl_off_t	elapsed = 0;
	curl_off_t	retry_after = 0;

	(void) curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	(void) curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &sent);
	(void) curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T, &elapsed);
	(void) curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &retry_after);
	if (code != CURLE_OK && response->error[0] == '\0')
		strlcpy(response->error, curl_easy_strerror(code), HTTP_ERROR_SIZE);
	make_printable(response->error);
	response->status = (int) status;
	response->elapsed_us = elapsed;
	response->retry_after_s = Max(retry_after, 0);
	response->body = transfer->body;
	response->timed_out = code == CURLE_OPERATION_TIMEDOUT;
	if (code == CURLE_OK)
		response->result = HTTP_ANSWERED;
	else if (transfer->too_large)
		response->result = HTTP_TOO_LARGE;
	else if (transfer->out_of_memory || code == CURLE_OUT_OF_MEMORY)
		response->result = HTTP_OUT_OF_MEMORY;
	else if (sent > 0)
		response->result = HTTP_OUTCOME_UNKNOWN;
	else
		response->result = transfer->address_refused && !transfer->address_allowed ? HTTP_ADDRESS_REFUSED : HTTP_NOT_SENT;
}

/* libcurl quotes what a server sent. */
static void
make_printable(char *text)
{
	for (; *text; text ++)
		if (*text <0x20 || *text >0x7E)
			*text = '?';
}

static int64
monotonic_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

static void
block_signals(sigset_t *before)
{
	sigset_t	all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, before);
}

static void
restore_signals(const sigset_t *before)
{
	sigprocmask(SIG_SETMASK, before, NULL);
}

/* ---- callbacks of libcurl ---- */

static int
on_socket(CURL *easy, curl_socket_t socket, int what, void *arg, void *socket_arg)
{
	int			events = 0;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_READABLE;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		events |= WL_SOCKET_WRITEABLE;
	return cqrs_service_wait_watch(socket, events) ? 0 : -1;
}

static int
on_timer(CURLM *handle, long timeout_ms, void *arg)
{
	timer_due_us = timeout_ms < 0 ? -1 : monotonic_us() + (int64) timeout_ms * 1000;
	return 0;
}

static size_t
on_body(char *data, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;
	HttpResponse *response = &transfer->response;
	Size		wanted = response->body_size + count;

	if (wanted > transfer->request->max_response_size)
	{
		transfer->too_large = true;
		return CURL_WRITEFUNC_ERROR;
	}
	if (wanted > transfer->body_capacity)
	{
		Size		capacity = Max(4096, 2 * wanted);
		char	   *larger = realloc(transfer->body, capacity);

		if (larger == NULL)
		{
			transfer->out_of_memory = true;
			return CURL_WRITEFUNC_ERROR;
		}
		transfer->body = larger;
		transfer->body_capacity = capacity;
	}
	memcpy(transfer->body + response->body_size, data, count);
	response->body_size = wanted;
	return count;
}

/* libcurl keeps the headers itself, but without a limit. */
static size_t
on_header(char *data, size_t size, size_t count, void *arg)
{
	HttpTransfer *transfer = arg;

	transfer->header_bytes += count;
	transfer->too_large = transfer->header_bytes > MAX_HEADER_BYTES;
	return transfer->too_large ? CURL_WRITEFUNC_ERROR : count;
}

/* Checks the address, and keeps programs that the backend starts from the socket. */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpTransfer *transfer = arg;
	curl_socket_t opened;

	if (!cqrs_service_address_is_allowed(&address->addr))
	{
		transfer->address_refused = true;
		return CURL_SOCKET_BAD;
	}
	transfer->address_allowed = true;
	opened = socket(address->family, address->socktype, address->protocol);
	if (opened != CURL_SOCKET_BAD)
		(void) fcntl(opened, F_SETFD, FD_CLOEXEC);
	return opened;
}
