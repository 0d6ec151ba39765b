/*
 * module.c
 *		Loading the library: one call per concept, in the order of the Makefile.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "catalog.h"
#include "command_delivery.h"
#include "entity_lock.h"
#include "entity_registry.h"
#include "identity.h"
#include "journal_guard.h"
#include "journal_table.h"
#include "last_event.h"
#include "outbox_reply_worker.h"
#include "outbox_worker.h"
#include "position.h"
#include "position_prepared.h"
#include "position_worker.h"
#include "projection_progress.h"
#include "projection_registry.h"
#include "projection_worker.h"
#include "registry.h"
#include "role.h"
#include "service_breaker.h"
#include "settings.h"
#include "shmem.h"
#include "state_cache.h"
#include "timer_worker.h"
#include "worker.h"
#include "worker_bar.h"
#include "worker_launcher.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_cqrs must be loaded when the server starts"),
				 errhint("Add the line shared_preload_libraries = 'pg_cqrs' to postgresql.conf and restart the server.")));

	cqrs_settings_init();
	cqrs_catalog_init();
	cqrs_role_init();
	cqrs_registry_init();
	cqrs_worker_init();
	cqrs_worker_bar_init();
	cqrs_worker_launcher_init();
	cqrs_position_prepared_init();
	cqrs_position_init();
	cqrs_entity_lock_init();
	cqrs_last_event_init();
	cqrs_journal_table_init();
	cqrs_identity_init();
	cqrs_journal_guard_init();
	cqrs_entity_registry_init();
	cqrs_state_cache_init();
	cqrs_projection_registry_init();
	cqrs_projection_progress_init();
	cqrs_projection_worker_init();
	cqrs_position_worker_init();
	cqrs_command_delivery_init();
	cqrs_service_breaker_init();
	cqrs_timer_worker_init();
	cqrs_outbox_reply_worker_init();
	cqrs_outbox_worker_init();
	cqrs_shmem_init();
}
