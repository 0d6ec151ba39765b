/*
 * settings.h
 *		The settings of the extension, all of them cqrs.*.
 */
#ifndef CQRS_SETTINGS_H
#define CQRS_SETTINGS_H

extern int	cqrs_command_retention_s;
extern int	cqrs_state_cache_size_kb;
extern int	cqrs_max_entity_locks;
extern int	cqrs_projection_workers;
extern int	cqrs_max_projection_partitions;
extern int	cqrs_retry_delay_ms;
extern int	cqrs_max_services;
extern int	cqrs_breaker_clock_offset_ms;
extern int	cqrs_command_timeout_ms;
extern int	cqrs_outbox_concurrency;
extern int	cqrs_outbox_max_attempts;
extern int	cqrs_outbox_retry_delay_ms;
extern int	cqrs_outbox_max_retry_delay_s;
extern int	cqrs_outbox_retention_s;
extern bool cqrs_allow_journal_changes;
extern bool cqrs_allow_call_after_append;
extern bool cqrs_allow_link_local_addresses;
extern bool cqrs_allow_unguarded_calls;
extern char *cqrs_traceparent;
extern bool cqrs_store_mark;
extern bool cqrs_workers;

/* Called by module.c at load. */
extern void cqrs_settings_init(void);

#endif
