/*
 * http_server.c
 *		A service that answers at once: what is measured is who calls it.
 *
 * Listens on 127.0.0.1 at a port of the system's choice, prints it, and ends
 * when its standard input does.  A thread for each connection, which is kept
 * alive; each request, of whatever method and with a body or without, gets the
 * same JSON.  Nothing is parsed but where a request ends: a client that sends
 * the next request before it has the answer is not served right.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] =
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"ok\": true}";

static void *accept_all(void *listener);
static void *serve(void *connection);
static int	read_request(int socket);
static size_t length_of(const char *request);

int
main(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	length = sizeof(address);
	long		listener = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t	thread;
	char		ignored[64];

	if (listener < 0 || bind(listener, (struct sockaddr *) &address, length) != 0 ||
		listen(listener, 256) != 0 || getsockname(listener, (struct sockaddr *) &address, &length) != 0 ||
		pthread_create(&thread, NULL, accept_all, (void *) listener) != 0)
	{
		perror("http_server");
		return 1;
	}
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	while (read(STDIN_FILENO, ignored, sizeof(ignored)) > 0)
		;
	return 0;
}

static void *
accept_all(void *listener)
{
	for (;;)
	{
		long		connection = accept((long) listener, NULL, NULL);
		pthread_t	thread;

		if (connection >= 0 && pthread_create(&thread, NULL, serve, (void *) connection) == 0)
			pthread_detach(thread);
	}
	return NULL;
}

static void *
serve(void *connection)
{
	int			socket = (long) connection;
	int			on = 1;

	setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	while (read_request(socket) && write(socket, answer, sizeof(answer) - 1) > 0)
		;
	close(socket);
	return NULL;
}

/* False at the end of the connection. */
static int
read_request(int socket)
{
	char		request[65536];
	size_t		length = 0;

	for (;;)
	{
		ssize_t		n = read(socket, request + length, sizeof(request) - 1 - length);

		if (n <= 0)
			return 0;
		length += n;
		request[length] = '\0';
		if (strstr(request, "\r\n\r\n") && length >= length_of(request))
			return 1;
	}
}

/* Of head and body. */
static size_t
length_of(const char *request)
{
	const char *end = strstr(request, "\r\n\r\n");
	const char *header = strcasestr(request, "\r\nContent-Length:");

	return end + 4 - request + (header && header < end ? strtoul(header + 17, NULL, 10) : 0);
}
