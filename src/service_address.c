/*
 * service_address.c
 *		Which addresses a call may connect to.
 *
 * A name can lead anywhere, and an address can be spelled in many ways, so
 * what is looked at is the address itself, after the name was resolved and
 * before anything is connected.  Loopback and private networks are allowed:
 * services are there, and the owner of the server named them.  Refused is what
 * no service has, but a machine's own metadata service does: link-local and
 * the metadata addresses of clouds, "this network", multicast and reserved.
 * cqrs.allow_link_local_addresses opens all of them.
 *
 * An IPv6 address that carries an IPv4 address is judged by that.
 *
 * Runs inside a callback of libcurl: throws nothing, allocates nothing.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "service_address.h"
#include "settings.h"

typedef struct Network4
{
	uint32		address;
	int			bits;
} Network4;

typedef struct Network6
{
	uint8		address[16];
	int			bits;
} Network6;

/* Where in an address of this network an IPv4 address is. */
typedef struct Carrier
{
	Network6	network;
	int			offset;
} Carrier;

static const Network4 refused4[] = {
	{0x00000000, 8},			/* this network */
	{0xA9FE0000, 16},			/* 169.254: link-local, metadata of most
								 * clouds */
	{0x646464C8, 32},			/* 100.100.100.200: metadata of Alibaba */
	{0xC0000000, 24},			/* 192.0.0: metadata of Oracle's 192.0.0.192 */
	{0xA83F8110, 32},			/* 168.63.129.16: Azure's host */
	{0xE0000000, 4},			/* multicast */
	{0xF0000000, 4},			/* reserved, broadcast */
};

static const Network6 refused6[] = {
	{{0}, 128},					/* unspecified */
	{{0xFE, 0x80}, 10},			/* link-local */
	{{0xFE, 0xC0}, 10},			/* site-local, which is no more */
	{{0xFF}, 8},				/* multicast */
	{{0xFD, 0x00, 0x0E, 0xC2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54}, 128},	/* metadata of AWS */
	{{0xFD, 0x20, 0, 0xCE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54}, 128}, /* metadata of Google */
};

static const Carrier carriers[] = {
	{{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}, 96}, 12}, /* mapped */
	{{{0, 0x64, 0xFF, 0x9B}, 96}, 12},	/* NAT64 */
	{{{0x20, 0x02}, 16}, 2},	/* 6to4 */
	{{{0}, 96}, 12},			/* compatible */
};

static bool is_allowed4(uint32 address);
static bool is_allowed6(const uint8 *address);
static bool is_within(const uint8 *address, const Network6 *network);

bool
cqrs_service_address_is_allowed(const struct sockaddr *address)
{
	if (cqrs_allow_link_local_addresses)
		return true;
	if (address->sa_family == AF_INET)
		return is_allowed4(ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr));
	if (address->sa_family == AF_INET6)
		return is_allowed6(((const struct sockaddr_in6 *) address)->sin6_addr.s6_addr);
	return false;
}

static bool
is_allowed4(uint32 address)
{
	for (int i = 0; i < lengthof(refused4); i++)
		if (((address ^ refused4[i].address) >> (32 - refused4[i].bits)) == 0)
			return false;
	return true;
}

static bool
is_allowed6(const uint8 *address)
{
	static const Network6 loopback = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128};

	if (is_within(address, &loopback))
		return true;
	for (int i = 0; i < lengthof(refused6); i++)
		if (is_within(address, &refused6[i]))
			return false;
	for (int i = 0; i < lengthof(carriers); i++)
		if (is_within(address, &carriers[i].network))
		{
			uint32		carried;

			memcpy(&carried, address + carriers[i].offset, sizeof(carried));
			return is_allowed4(ntohl(carried));
		}
	return true;
}

static bool
is_within(const uint8 *address, const Network6 *network)
{
	int			whole = network->bits / 8;
	int			rest = network->bits % 8;

	if (memcmp(address, network->address, whole) != 0)
		return false;
	return rest == 0 || ((address[whole] ^ network->address[whole]) >> (8 - rest)) == 0;
}
