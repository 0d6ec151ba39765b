/*
 * identity.h
 *		Is this the database that the journal was written in?
 */
#ifndef CQRS_IDENTITY_H
#define CQRS_IDENTITY_H

/* Called by module.c at load. */
extern void cqrs_identity_init(void);

extern bool cqrs_identity_held(void);
extern void cqrs_identity_refuse_if_held(const char *what);
extern void cqrs_identity_warn_if_held(void);
extern bool cqrs_identity_has_first_events(void);
extern void cqrs_identity_lose_first_events(void);

#endif
