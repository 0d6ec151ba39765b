/*
 * service_address.h
 *		Which addresses a call may connect to.
 */
#ifndef CQRS_SERVICE_ADDRESS_H
#define CQRS_SERVICE_ADDRESS_H

#include <sys/socket.h>

extern bool cqrs_service_address_is_allowed(const struct sockaddr *address);

#endif
